// SPDX-License-Identifier: MIT
#include "kernels/cpu/ops.h"

#include <utility>

#include "kernels/cpu/isa.h"
#include "kernels/cpu/linear.h"
#include "kernels/cpu/primitive.h"

namespace qwen3_mlx::cpu {

namespace {

class LinearPrimitive final : public CpuPrimitive {
 public:
  LinearPrimitive(std::shared_ptr<const Tiles> tiles, const FusedLinear& fused)
      : tiles_(std::move(tiles)), has_norm_(fused.norm_weight != nullptr),
        eps_(fused.norm_eps), has_bias_(fused.bias != nullptr),
        has_residual_(fused.residual != nullptr), gated_(fused.gated) {}

  // x, weight, then norm, bias and residual as far as there are.
  void eval_cpu(const std::vector<mx::array>& inputs, mx::array& out) override {
    const MutableRows to = allocate(out);
    LinearOptions options{.gated = gated_};
    std::size_t next = 2;
    if (has_norm_) {
      options.norm = RmsNorm{vector_of(inputs[next++]), eps_};
    }
    if (has_bias_) {
      options.bias = vector_of(inputs[next++]);
    }
    std::optional<RowsOf> residual;
    if (has_residual_) {
      residual.emplace(inputs[next++]);
    }
    enqueue(
        inputs,
        out,
        [tiles = tiles_,
         x = RowsOf(inputs[0]),
         weight = inputs[1].data<std::byte>(),
         options,
         residual,
         to]() mutable {
          if (residual) {
            options.residual = residual->get();
          }
          linear(
              tiles->runtime->context(),
              x.get(),
              x.count(),
              {tiles->layout, weight},
              options,
              to);
        });
  }

  const char* name() const override {
    return "CpuLinear";
  }

 private:
  std::shared_ptr<const Tiles> tiles_;
  bool has_norm_;
  float eps_;
  bool has_bias_;
  bool has_residual_;
  bool gated_;
};

class EmbeddingPrimitive final : public CpuPrimitive {
 public:
  explicit EmbeddingPrimitive(std::shared_ptr<const Tiles> tiles)
      : tiles_(std::move(tiles)) {}

  // tokens (uint32, contiguous), weight
  void eval_cpu(const std::vector<mx::array>& inputs, mx::array& out) override {
    const MutableRows to = allocate(out);
    enqueue(
        inputs,
        out,
        [tiles = tiles_,
         tokens = inputs[0].data<std::uint32_t>(),
         count = static_cast<int>(inputs[0].size()),
         weight = inputs[1].data<std::byte>(),
         to] {
          // Ids come from outside, and only now are they known: those beyond
          // the table read its last row, as a clamped gather does.
          const auto last = static_cast<std::uint32_t>(tiles->layout.rows - 1);
          std::vector<std::uint32_t> ids(tokens, tokens + count);
          for (std::uint32_t& id : ids) {
            id = id > last ? last : id;
          }
          embedding(
              tiles->runtime->context(),
              ids.data(),
              count,
              {tiles->layout, weight},
              to);
        });
  }

  const char* name() const override {
    return "CpuEmbedding";
  }

 private:
  std::shared_ptr<const Tiles> tiles_;
};

class ArgMaxPrimitive final : public CpuPrimitive {
 public:
  explicit ArgMaxPrimitive(mx::Stream stream) : CpuPrimitive(stream) {}

  void eval_cpu(const std::vector<mx::array>& inputs, mx::array& out) override {
    out.set_data(mx::allocator::malloc(out.nbytes()));
    enqueue(
        inputs,
        out,
        [x = RowsOf(inputs[0]),
         size = inputs[0].shape(-1),
         to = out.data<std::uint32_t>()]() mutable {
          const KernelTable& kernels = select_kernels();
          const Rows rows = x.get();
          const auto count = static_cast<std::size_t>(x.count());
          for (std::size_t row = 0; row < count; ++row) {
            to[row] = kernels.arg_max(rows.row(row), rows.type, size);
          }
        });
  }

  const char* name() const override {
    return "CpuArgMax";
  }
};

// The stacks of a layer, and their bytes once a primitive is evaluated. Their
// arrays are the last inputs of the primitive.
class ExpertStacks {
 public:
  explicit ExpertStacks(const TiledExperts& w)
      : gate_up_(w.gate_up.tiles), up_(w.up == nullptr ? nullptr : w.up->tiles),
        down_(w.down.tiles) {}

  static void append(const TiledExperts& w, std::vector<mx::array>& inputs) {
    inputs.push_back(w.gate_up.weight);
    if (w.up != nullptr) {
      inputs.push_back(w.up->weight);
    }
    inputs.push_back(w.down.weight);
  }

  void bind(const std::vector<mx::array>& inputs, std::size_t first) {
    const auto next = [&] { return inputs[first++].data<std::byte>(); };
    view_.gate_up = {gate_up_->layout, next()};
    if (up_) {
      view_.up = {up_->layout, next()};
    }
    view_.down = {down_->layout, next()};
    view_.num_experts = gate_up_->num_matrices;
  }

  const ExpertsView& view() const {
    return view_;
  }
  Context context() const {
    return gate_up_->runtime->context();
  }

 private:
  std::shared_ptr<const Tiles> gate_up_;
  std::shared_ptr<const Tiles> up_;
  std::shared_ptr<const Tiles> down_;
  ExpertsView view_;
};

class ExpertsPrimitive final : public CpuPrimitive {
 public:
  explicit ExpertsPrimitive(const TiledExperts& w) : stacks_(w) {}

  // x, experts (uint32, contiguous), stacks
  void eval_cpu(const std::vector<mx::array>& inputs, mx::array& out) override {
    const MutableRows to = allocate(out);
    ExpertStacks bound = stacks_;
    bound.bind(inputs, 2);
    enqueue(
        inputs,
        out,
        [stacks = std::move(bound),
         x = RowsOf(inputs[0]),
         experts = inputs[1].data<std::uint32_t>(),
         top_k = inputs[1].shape(-1),
         to]() mutable {
          experts_mlp(
              stacks.context(),
              x.get(),
              x.count(),
              top_k,
              experts,
              stacks.view(),
              to);
        });
  }

  const char* name() const override {
    return "CpuExperts";
  }

 private:
  ExpertStacks stacks_;
};

class SparsePrimitive final : public CpuPrimitive {
 public:
  explicit SparsePrimitive(const SparseLayer& layer)
      : stacks_(layer.experts), eps_(layer.norm_eps), top_k_(layer.top_k),
        normalize_(layer.normalize) {}

  // residual, logits, norm, stacks
  void eval_cpu(const std::vector<mx::array>& inputs, mx::array& out) override {
    const MutableRows to = allocate(out);
    ExpertStacks bound = stacks_;
    bound.bind(inputs, 3);
    enqueue(
        inputs,
        out,
        [stacks = std::move(bound),
         options = RouteOptions{.top_k = top_k_, .normalize = normalize_},
         x = RowsOf(inputs[0]),
         logits = RowsOf(inputs[1]),
         norm = RmsNorm{vector_of(inputs[2]), eps_},
         to]() mutable {
          options.num_experts = stacks.view().num_experts;
          run(stacks, options, x, logits, norm, to);
        });
  }

  const char* name() const override {
    return "CpuSparse";
  }

 private:
  static void
  run(const ExpertStacks& stacks,
      const RouteOptions& options,
      RowsOf& x,
      RowsOf& logits,
      const RmsNorm& norm,
      const MutableRows& to) {
    const Context context = stacks.context();
    const Rows rows = x.get();
    const auto pairs = static_cast<std::size_t>(x.count()) *
        static_cast<std::size_t>(options.top_k);
    const int hidden = stacks.view().gate_up.layout.cols;
    const auto stride = static_cast<std::size_t>(hidden);
    std::vector<std::uint32_t> experts(pairs);
    std::vector<float> weights(pairs);
    route(
        context,
        logits.get(),
        x.count(),
        options,
        experts.data(),
        weights.data());
    const Scratch<float> outputs(context.scratch, pairs * stride);
    experts_mlp(
        context,
        rows,
        x.count(),
        options.top_k,
        experts.data(),
        stacks.view(),
        {outputs.get(), Float::f32, stride},
        norm);
    combine_experts(
        context,
        {outputs.get(), Float::f32, stride},
        weights.data(),
        x.count(),
        options.top_k,
        hidden,
        rows,
        to);
  }

  ExpertStacks stacks_;
  float eps_;
  int top_k_;
  bool normalize_;
};

} // namespace

mx::array
linear_op(const mx::array& x, const Matrix& w, const FusedLinear& fused) {
  const mx::array input = as_float(x);
  std::vector<mx::array> inputs{input, w.weight};
  for (const mx::array* vector : {fused.norm_weight, fused.bias}) {
    if (vector != nullptr) {
      inputs.push_back(side_by_side(as_float(*vector)));
    }
  }
  if (fused.residual != nullptr) {
    inputs.push_back(as_float(*fused.residual));
  }
  auto shape = x.shape();
  shape.back() = w.out_dim() / (fused.gated ? 2 : 1);
  return mx::array(
      std::move(shape),
      input.dtype(),
      std::make_shared<LinearPrimitive>(w.tiles, fused),
      std::move(inputs));
}

mx::array
embedding_op(const mx::array& tokens, const Matrix& w, mx::Dtype dtype) {
  auto shape = tokens.shape();
  shape.push_back(w.in_dim());
  return mx::array(
      std::move(shape),
      dtype,
      std::make_shared<EmbeddingPrimitive>(w.tiles),
      {side_by_side(mx::astype(tokens, mx::uint32)), w.weight});
}

mx::array arg_max_op(const mx::array& values, mx::Stream stream) {
  return mx::array(
      {values.shape(0)},
      mx::uint32,
      std::make_shared<ArgMaxPrimitive>(stream),
      {values});
}

mx::array experts_op(
    const mx::array& x,
    const TiledExperts& w,
    const mx::array& experts) {
  const mx::array input = as_float(x);
  std::vector<mx::array> inputs{
      input, side_by_side(mx::astype(experts, mx::uint32))};
  ExpertStacks::append(w, inputs);
  return mx::array(
      {x.shape(0), experts.shape(-1), w.down.out_dim()},
      input.dtype(),
      std::make_shared<ExpertsPrimitive>(w),
      std::move(inputs));
}

mx::array sparse_op(
    const mx::array& residual,
    const mx::array& logits,
    const SparseLayer& layer) {
  const mx::array input = as_float(residual);
  std::vector<mx::array> inputs{
      input, as_float(logits), side_by_side(as_float(layer.norm_weight))};
  ExpertStacks::append(layer.experts, inputs);
  return mx::array(
      residual.shape(),
      input.dtype(),
      std::make_shared<SparsePrimitive>(layer),
      std::move(inputs));
}

} // namespace qwen3_mlx::cpu
