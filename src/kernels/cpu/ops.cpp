// SPDX-License-Identifier: MIT
#include "kernels/cpu/ops.h"

#include <numeric>
#include <utility>

#include "kernels/cpu/attention.h"
#include "kernels/cpu/linear.h"
#include "kernels/cpu/views.h"
#include "kernels/mlx_internals.h"
#include "mlx/ops.h"
#include "mlx/utils.h"
#include "qwen3_mlx/error.h"

namespace qwen3_mlx::cpu {

namespace {

// A primitive that runs on the CPU alone, whose work is queued on the stream.
class CpuPrimitive : public mx::UnaryPrimitive {
 public:
  CpuPrimitive() : UnaryPrimitive(mx::default_stream(mx::Device::cpu)) {}

  void eval_gpu(const std::vector<mx::array>&, mx::array&) override {
    throw InvalidArgument("a kernel of the CPU was asked to run on the GPU");
  }

 protected:
  static MutableRows allocate(mx::array& out) {
    out.set_data(mx::allocator::malloc(out.nbytes()));
    return {
        out.data<std::byte>(),
        float_type(out.dtype()).value(),
        static_cast<std::size_t>(out.shape(-1))};
  }

  template <class Task>
  void
  enqueue(const std::vector<mx::array>& inputs, mx::array& out, Task&& task) {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    for (const mx::array& input : inputs) {
      encoder.set_input_array(input);
    }
    encoder.set_output_array(out);
    encoder.dispatch(std::forward<Task>(task));
  }
};

mx::array as_float(const mx::array& x) {
  return float_type(x.dtype()) ? x : mx::astype(x, mx::float32);
}

// Vectors are weights and contiguous, as loaded; slices of them may not be.
mx::array side_by_side(const mx::array& x) {
  return x.has_primitive() ? mx::contiguous(x) : x;
}

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
    const auto outputs = make_scratch<float>(pairs * stride);
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

struct AttentionState {
  std::shared_ptr<KvBuffer> buffer;
  std::shared_ptr<Runtime> runtime;
  int n_heads;
  int n_kv_heads;
  int head_dim;
  float scale;
  std::optional<int> window;
  float norm_eps;
  bool has_norms;
  int batch;
  int offset;
  int capacity;
};

// Appends the new rows and attends: what the attention primitive's task does.
void run_attention(
    const AttentionState& state,
    const Rows& qkv,
    int num_rows,
    const std::optional<std::pair<Vector, Vector>>& norms,
    const float* periods,
    int num_periods,
    const MutableRows& out) {
  KvBuffer& buffer = *state.buffer;
  buffer.reserve(state.capacity, state.offset);
  const auto dim = static_cast<std::size_t>(state.head_dim);
  const auto head_stride = static_cast<std::size_t>(buffer.capacity()) * dim;
  const auto batch_bytes = head_stride *
      static_cast<std::size_t>(state.n_kv_heads) * size_of(buffer.type());
  const auto heads_at = [&](int head) {
    return Rows{
        static_cast<const std::byte*>(qkv.data) +
            static_cast<std::size_t>(head) * dim * size_of(qkv.type),
        qkv.type,
        qkv.stride};
  };
  std::vector<float> inv_freq;
  for (int idx = 0; idx < num_periods; ++idx) {
    inv_freq.push_back(1.0F / periods[idx]);
  }
  const int length = num_rows / state.batch;
  std::vector<std::int32_t> positions;
  AttentionArgs args{
      .num_heads = state.n_heads,
      .num_kv_heads = state.n_kv_heads,
      .head_dim = state.head_dim,
      .scale = state.scale,
      .window = state.window,
      .queries = heads_at(0),
      .keys = heads_at(state.n_heads),
      .values = heads_at(state.n_heads + state.n_kv_heads),
      .kv_type = buffer.type(),
      .inv_freq = inv_freq.data(),
      .rotary_dim = 2 * num_periods};
  if (norms) {
    args.q_norm = RmsNorm{norms->first, state.norm_eps};
    args.k_norm = RmsNorm{norms->second, state.norm_eps};
  }
  for (int sequence = 0; sequence < state.batch; ++sequence) {
    const std::size_t begin = static_cast<std::size_t>(sequence) * batch_bytes;
    args.sequences.push_back(
        {.kv =
             {.keys = buffer.keys() + begin,
              .values = buffer.values() + begin,
              .key_head_stride = head_stride,
              .value_head_stride = head_stride,
              .token_stride = dim},
         .num_rows = length,
         .first_key_idx = state.offset});
    for (int row = 0; row < length; ++row) {
      positions.push_back(state.offset + row);
    }
  }
  args.positions = positions.data();
  attention(state.runtime->context(), args, out);
}

class AttentionPrimitive final : public CpuPrimitive {
 public:
  explicit AttentionPrimitive(AttentionState state)
      : state_(std::move(state)) {}

  // qkv, periods, then both norms, then whatever must come before
  void eval_cpu(const std::vector<mx::array>& inputs, mx::array& out) override {
    const MutableRows to = allocate(out);
    std::optional<std::pair<Vector, Vector>> norms;
    if (state_.has_norms) {
      norms.emplace(vector_of(inputs[2]), vector_of(inputs[3]));
    }
    enqueue(
        inputs,
        out,
        [state = state_,
         qkv = RowsOf(inputs[0]),
         periods = inputs[1].data<float>(),
         num_periods = static_cast<int>(inputs[1].size()),
         norms,
         to]() mutable {
          run_attention(
              state, qkv.get(), qkv.count(), norms, periods, num_periods, to);
        });
  }

  const char* name() const override {
    return "CpuAttention";
  }

 private:
  AttentionState state_;
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

bool supports_head_dim(int head_dim) {
  return head_dim % kTileRows == 0 && head_dim <= kMaxHeadDim;
}

mx::array attention_op(
    const AttentionCall& call,
    const std::shared_ptr<KvBuffer>& buffer,
    int offset,
    int capacity,
    const std::optional<mx::array>& previous) {
  const mx::array& qkv = call.qkv;
  const AttentionForm& form = call.form;
  const bool has_norms = form.q_norm != nullptr && form.k_norm != nullptr;
  std::vector<mx::array> inputs{qkv, side_by_side(form.periods)};
  if (has_norms) {
    inputs.push_back(side_by_side(as_float(*form.q_norm)));
    inputs.push_back(side_by_side(as_float(*form.k_norm)));
  }
  if (previous) {
    inputs.push_back(*previous);
  }
  return mx::array(
      {qkv.shape(0), form.n_heads * form.head_dim},
      qkv.dtype(),
      std::make_shared<AttentionPrimitive>(AttentionState{
          buffer,
          call.runtime,
          form.n_heads,
          form.n_kv_heads,
          form.head_dim,
          form.scale,
          form.window,
          form.norm_eps,
          has_norms,
          call.batch,
          offset,
          capacity}),
      std::move(inputs));
}

} // namespace qwen3_mlx::cpu
