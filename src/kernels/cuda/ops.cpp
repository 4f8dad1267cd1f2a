// SPDX-License-Identifier: MIT
#include "kernels/cuda/ops.h"

#include <algorithm>
#include <utility>

#include "kernels/cuda/primitive.h"
#include "mlx/ops.h"
#include "qwen3_mlx/error.h"

namespace qwen3_mlx::cuda {

namespace {

// Rows up to which reading a matrix once for each eight beats making it plain,
// where gemm() does not take them.
constexpr int kMaxRowsOfGemv = 32;
// Rows up to which gemm() beats making the matrix plain.
constexpr int kMaxRowsOfGemm = 256;
// Pairs of a token and an expert that one operation takes: blocks of a launch.
constexpr int kMaxPairs = 65535;

std::optional<Float> float_of(mx::Dtype dtype) {
  return dtype == mx::bfloat16 ? std::optional(Float::bf16)
      : dtype == mx::float16   ? std::optional(Float::f16)
      : dtype == mx::float32   ? std::optional(Float::f32)
                               : std::nullopt;
}

Float type_of(const mx::array& array) {
  return float_of(array.dtype()).value();
}

class LinearPrimitive final : public CudaPrimitive {
 public:
  LinearPrimitive(
      const Blocks& blocks,
      bool has_norm,
      float eps,
      bool has_bias,
      bool has_residual,
      bool gated)
      : CudaPrimitive(blocks.runtime), layout_(blocks.layout),
        has_norm_(has_norm), eps_(eps), has_bias_(has_bias),
        has_residual_(has_residual), gated_(gated) {}

  // x, weight, then norm, bias and residual as far as there are.
  void
  run(Operands& operands,
      const std::vector<mx::array>& inputs,
      mx::array& out) override {
    std::size_t next = 2;
    const auto take = [&](bool has) {
      return has ? operands.input(inputs[next++]) : nullptr;
    };
    GemvArgs args{
        .layout = layout_,
        .weight = operands.input(inputs[1]),
        .x = operands.input(inputs[0]),
        .y = operands.output(out),
        .type = type_of(out),
        .num_rows = static_cast<int>(
            inputs[0].size() / static_cast<std::size_t>(layout_.cols)),
        .norm_eps = eps_,
        .gated = gated_};
    args.norm = take(has_norm_);
    args.bias = take(has_bias_);
    args.residual = take(has_residual_);
    if (args.num_rows <= kMaxGemvRows ||
        !supports_gemm(runtime()->launcher, layout_, args.type)) {
      gemv(operands.launcher(), args);
      return;
    }
    if (args.norm != nullptr) {
      void* const normed =
          operands.temporary(inputs[0].size() * size_of(args.type));
      rms_norm(
          operands.launcher(),
          args.x,
          args.norm,
          eps_,
          args.type,
          args.num_rows,
          layout_.cols,
          normed);
      args.x = normed;
      args.norm = nullptr;
    }
    const GemmNeeds needs = gemm_needs(operands.launcher(), args);
    auto* const workspace = static_cast<float*>(
        operands.temporary(needs.workspace * sizeof(float)));
    gemm(
        operands.launcher(),
        args,
        workspace,
        operands.counters(needs.counters));
  }

  const char* name() const override {
    return "CudaLinear";
  }

 private:
  PackedLayout layout_;
  bool has_norm_;
  float eps_;
  bool has_bias_;
  bool has_residual_;
  bool gated_;
};

class EmbeddingPrimitive final : public CudaPrimitive {
 public:
  explicit EmbeddingPrimitive(const Blocks& blocks)
      : CudaPrimitive(blocks.runtime), layout_(blocks.layout) {}

  // tokens (uint32), weight
  void
  run(Operands& operands,
      const std::vector<mx::array>& inputs,
      mx::array& out) override {
    void* const to = operands.output(out);
    gather_rows(
        operands.launcher(),
        layout_,
        operands.input(inputs[1]),
        static_cast<const std::uint32_t*>(operands.input(inputs[0])),
        static_cast<int>(inputs[0].size()),
        type_of(out),
        to,
        operands.advance());
  }

  const char* name() const override {
    return "CudaEmbedding";
  }

 private:
  PackedLayout layout_;
};

class UnpackPrimitive final : public CudaPrimitive {
 public:
  explicit UnpackPrimitive(const Blocks& blocks)
      : CudaPrimitive(blocks.runtime), layout_(blocks.layout) {}

  void
  run(Operands& operands,
      const std::vector<mx::array>& inputs,
      mx::array& out) override {
    void* const to = operands.output(out);
    unpack(
        operands.launcher(),
        layout_,
        operands.input(inputs[0]),
        type_of(out),
        to);
  }

  const char* name() const override {
    return "CudaUnpack";
  }

 private:
  PackedLayout layout_;
};

class SparsePrimitive final : public CudaPrimitive {
 public:
  SparsePrimitive(const PackedExperts& w, float eps, int top_k, bool normalize)
      : CudaPrimitive(w.gate_up.blocks->runtime),
        gate_up_(w.gate_up.blocks->layout), down_(w.down.blocks->layout),
        num_experts_(w.gate_up.blocks->num_matrices), eps_(eps), top_k_(top_k),
        normalize_(normalize) {}

  // residual, logits, norm weight, gate and up, down
  void
  run(Operands& operands,
      const std::vector<mx::array>& inputs,
      mx::array& out) override {
    const Float type = type_of(out);
    const int n = inputs[0].shape(0);
    const auto pairs = static_cast<std::size_t>(n * top_k_);
    void* const to = operands.output(out);
    auto* const experts = static_cast<std::uint32_t*>(
        operands.temporary(pairs * sizeof(std::uint32_t)));
    auto* const mix =
        static_cast<float*>(operands.temporary(pairs * sizeof(float)));
    void* const hidden = operands.temporary(
        pairs * static_cast<std::size_t>(gate_up_.rows / 2) * size_of(type));
    void* const parts = operands.temporary(
        pairs * static_cast<std::size_t>(down_.rows) * size_of(type));
    const Launcher launch = operands.launcher();
    route(
        launch,
        operands.input(inputs[1]),
        type_of(inputs[1]),
        n,
        num_experts_,
        top_k_,
        normalize_,
        experts,
        mix);
    GemvArgs gate_up{
        .layout = gate_up_,
        .weight = operands.input(inputs[3]),
        .x = operands.input(inputs[0]),
        .y = hidden,
        .type = type,
        .num_rows = n * top_k_,
        .gated = true};
    GemvArgs down{
        .layout = down_,
        .weight = operands.input(inputs[4]),
        .x = hidden,
        .y = parts,
        .type = type,
        .num_rows = n * top_k_};
    const void* const norm = operands.input(inputs[2]);
    // Few pairs meet most of their experts alone, or nearly so.
    if (n * top_k_ <= 2 * num_experts_ ||
        !supports_gemm(launch, gate_up_, type) ||
        !supports_gemm(launch, down_, type)) {
      gate_up.norm = norm;
      gate_up.norm_eps = eps_;
      gate_up.rows_per_x = top_k_;
      gate_up.experts = down.experts = experts;
      gate_up.num_experts = down.num_experts = num_experts_;
      gemv(launch, gate_up);
      gemv(launch, down);
    } else {
      run_grouped(operands, launch, experts, norm, gate_up, down);
    }
    weighted_sum(
        launch,
        operands.input(inputs[0]),
        parts,
        mix,
        type,
        n,
        top_k_,
        down_.rows,
        to);
  }

  const char* name() const override {
    return "CudaSparse";
  }

 private:
  // Each expert's rows after each other, so that its matrices are read once.
  void run_grouped(
      Operands& operands,
      const Launcher& launch,
      const std::uint32_t* experts,
      const void* norm,
      GemvArgs gate_up,
      const GemvArgs& down) const {
    const int pairs = gate_up.num_rows;
    const auto ints = [&](int count) {
      return static_cast<int*>(
          operands.temporary(static_cast<std::size_t>(count) * sizeof(int)));
    };
    const int tile_rows = std::min(
        fitting_tile_rows(
            launch, gate_up_, expert_tile_rows(pairs, num_experts_)),
        fitting_tile_rows(
            launch, down_, expert_tile_rows(pairs, num_experts_)));
    int* const sorted = ints(pairs);
    int* const counts = ints(num_experts_);
    int* const num_tiles = ints(1);
    auto* const tiles = static_cast<ExpertTile*>(operands.temporary(
        sizeof(ExpertTile) *
        static_cast<std::size_t>(
            max_expert_tiles(pairs, num_experts_, tile_rows))));
    void* const normed = operands.temporary(
        static_cast<std::size_t>(pairs / top_k_) *
        static_cast<std::size_t>(gate_up_.cols) * size_of(gate_up.type));
    sort_by_expert(
        launch,
        experts,
        pairs,
        num_experts_,
        tile_rows,
        sorted,
        counts,
        tiles,
        num_tiles);
    rms_norm(
        launch,
        gate_up.x,
        norm,
        eps_,
        gate_up.type,
        pairs / top_k_,
        gate_up_.cols,
        normed);
    gate_up.x = normed;
    GroupedRows rows{
        .tiles = tiles,
        .num_tiles = num_tiles,
        .tile_rows = tile_rows,
        .in_rows = sorted,
        .rows_per_x = top_k_};
    grouped_gemm(launch, gate_up, rows);
    rows.in_rows = nullptr;
    rows.out_rows = sorted;
    grouped_gemm(launch, down, rows);
  }

  PackedLayout gate_up_;
  PackedLayout down_;
  int num_experts_;
  float eps_;
  int top_k_;
  bool normalize_;
};

class AttentionPrimitive final : public CudaPrimitive {
 public:
  /// A segment, without arrays: they would outlive the graph's need of them.
  struct Part {
    int batch;
    int offset;
  };

  AttentionPrimitive(
      std::shared_ptr<Runtime> runtime,
      DecodeAttentionArgs args,
      std::vector<Part> parts)
      : CudaPrimitive(std::move(runtime)), args_(args),
        parts_(std::move(parts)) {}

  // qkv, periods, both norms if there are any, keys and values of each part,
  // then whatever must have run before.
  void
  run(Operands& operands,
      const std::vector<mx::array>& inputs,
      mx::array& out) override {
    DecodeAttentionArgs args = args_;
    args.qkv = operands.input(inputs[0]);
    args.periods = static_cast<const float*>(operands.input(inputs[1]));
    std::size_t next = 2;
    if (has_norm()) {
      args.q_norm = operands.input(inputs[next++]);
      args.k_norm = operands.input(inputs[next++]);
    } else {
      args.q_norm = args.k_norm = nullptr;
    }
    args.out = operands.output(out);
    if (const DecodeTable* table = operands.next_layer()) {
      args.workspace = static_cast<float*>(operands.temporary(
          sizeof(float) *
          decode_workspace(args, table->count, table->max_splits)));
      args.counters = operands.counters(
          static_cast<std::size_t>(table->count * args.num_kv_heads));
      decode_attention(operands.launcher(), args, *table);
      return;
    }
    std::vector<DecodeSequence> sequences;
    for (const Part& part : parts_) {
      const auto& keys = inputs[next++];
      const auto& values = inputs[next++];
      append_sequences(
          operands.input(keys),
          operands.input(values),
          keys.shape(),
          part.offset,
          sequences);
    }
    args.workspace = static_cast<float*>(
        operands.temporary(decode_workspace(args, sequences) * sizeof(float)));
    args.counters = operands.counters(
        sequences.size() * static_cast<std::size_t>(args.num_kv_heads));
    decode_attention(operands.launcher(), args, sequences);
  }

  std::size_t num_lasting_inputs(std::size_t) const override {
    return has_norm() ? 4 : 2;
  }

  const char* name() const override {
    return "CudaDecodeAttention";
  }

 private:
  bool has_norm() const {
    return args_.norm_eps > 0;
  }

  DecodeAttentionArgs args_;
  std::vector<Part> parts_;
};

} // namespace

bool takes_rows(const mx::array& x, const Matrix& w, bool gated) {
  const auto& layout = w.blocks->layout;
  const auto type = float_of(x.dtype());
  const auto n_rows = x.size() / static_cast<std::size_t>(layout.cols);
  if (!type || n_rows == 0) {
    return false;
  }
  const Launcher& launcher = w.blocks->runtime->launcher;
  const auto most =
      supports_gemm(launcher, layout, *type) ? kMaxRowsOfGemm : kMaxRowsOfGemv;
  // As large as it gets: with a norm, of which only the presence is looked at.
  const GemvArgs largest{
      .layout = layout, .type = *type, .norm = &layout, .gated = gated};
  return n_rows <= static_cast<std::size_t>(most) &&
      fits_gemv(launcher, largest) && w.blocks->num_matrices == 0 &&
      (!gated || can_gate(layout)) &&
      (!layout.is_plain() || layout.type == *type);
}

mx::array
linear_op(const mx::array& x, const Matrix& w, const FusedLinear& fused) {
  const auto& layout = w.blocks->layout;
  mx::Shape shape = x.shape();
  shape.back() = fused.gated ? layout.rows / 2 : layout.rows;
  std::vector<mx::array> inputs{dense(x), w.weight};
  for (const mx::array* extra :
       {fused.norm_weight, fused.bias, fused.residual}) {
    if (extra != nullptr) {
      inputs.push_back(dense(
          extra->dtype() == x.dtype() ? *extra
                                      : mx::astype(*extra, x.dtype())));
    }
  }
  return {
      std::move(shape),
      x.dtype(),
      std::make_shared<LinearPrimitive>(
          *w.blocks,
          fused.norm_weight != nullptr,
          fused.norm_eps,
          fused.bias != nullptr,
          fused.residual != nullptr,
          fused.gated),
      std::move(inputs)};
}

mx::array
embedding_op(const mx::array& tokens, const Matrix& w, mx::Dtype dtype) {
  if (!float_of(dtype)) {
    return mx::astype(embedding_op(tokens, w, mx::float32), dtype);
  }
  mx::Shape shape = tokens.shape();
  shape.push_back(w.blocks->layout.cols);
  return {
      std::move(shape),
      dtype,
      std::make_shared<EmbeddingPrimitive>(*w.blocks),
      {dense(
           tokens.dtype() == mx::uint32 ? tokens
                                        : mx::astype(tokens, mx::uint32)),
       w.weight}};
}

Matrix unpacked(const Matrix& w, mx::Dtype dtype) {
  const auto& layout = w.blocks->layout;
  const int count = w.blocks->num_matrices;
  const auto type = float_of(dtype) ? dtype : mx::float32;
  Blocks all = *w.blocks;
  mx::Shape shape{layout.rows, layout.cols};
  if (count > 0) { // a stack is one tall matrix
    all.layout.rows *= count;
    shape.insert(shape.begin(), count);
  }
  return {
      mx::array(
          std::move(shape),
          type,
          std::make_shared<UnpackPrimitive>(all),
          {w.weight}),
      std::nullopt,
      std::nullopt,
      {}};
}

Matrix packed_rows(const Matrix& w, int begin, int n) {
  const Blocks& blocks = *w.blocks;
  if (begin % kBlockRows != 0) {
    const auto dtype =
        blocks.layout.type == Float::f16 ? mx::float16 : mx::bfloat16;
    const auto plain = unpacked(w, dtype).weight;
    return {
        mx::slice(plain, {begin, 0}, {begin + n, blocks.layout.cols}),
        std::nullopt,
        std::nullopt,
        {}};
  }
  auto part = std::make_shared<Blocks>(blocks);
  part->layout.rows = n;
  const int first = begin / kBlockRows;
  return {
      mx::slice(
          w.weight,
          {first, 0},
          {first + part->layout.row_blocks(), w.weight.shape(1)}),
      std::nullopt,
      std::nullopt,
      w.format,
      nullptr,
      std::move(part)};
}

bool takes_experts(
    const Matrix& gate_up,
    const Matrix* up,
    const Matrix& down) {
  return gate_up.blocks && down.blocks && up == nullptr &&
      can_gate(gate_up.blocks->layout);
}

mx::array sparse_op(
    const mx::array& residual,
    const mx::array& logits,
    const PackedExperts& w,
    const SparseForm& form) {
  const int most = kMaxPairs / form.top_k;
  if (residual.shape(0) > most) {
    std::vector<mx::array> parts;
    for (int begin = 0; begin < residual.shape(0); begin += most) {
      const int end = std::min(residual.shape(0), begin + most);
      parts.push_back(sparse_op(
          mx::slice(residual, {begin, 0}, {end, residual.shape(1)}),
          mx::slice(logits, {begin, 0}, {end, logits.shape(1)}),
          w,
          form));
    }
    return mx::concatenate(std::move(parts), 0);
  }
  const auto weight = form.norm_weight.dtype() == residual.dtype()
      ? form.norm_weight
      : mx::astype(form.norm_weight, residual.dtype());
  return {
      residual.shape(),
      residual.dtype(),
      std::make_shared<SparsePrimitive>(
          w, form.norm_eps, form.top_k, form.normalize),
      {dense(residual),
       dense(logits),
       dense(weight),
       w.gate_up.weight,
       w.down.weight}};
}

bool takes_attention(const mx::array& qkv, const AttentionForm& form) {
  const auto type = float_of(qkv.dtype());
  return type &&
      supports_decode(*type, form.n_heads, form.n_kv_heads, form.head_dim) &&
      (form.q_norm == nullptr) == (form.k_norm == nullptr);
}

mx::array decode_attention_op(
    const mx::array& qkv,
    const AttentionForm& form,
    const mx::array& periods,
    const std::vector<DecodeSegment>& segments,
    const std::shared_ptr<Runtime>& runtime) {
  std::vector<mx::array> inputs{dense(qkv), dense(periods)};
  for (const mx::array* norm : {form.q_norm, form.k_norm}) {
    if (norm != nullptr) {
      inputs.push_back(dense(
          norm->dtype() == qkv.dtype() ? *norm
                                       : mx::astype(*norm, qkv.dtype())));
    }
  }
  std::vector<AttentionPrimitive::Part> parts;
  for (const auto& segment : segments) {
    parts.push_back({segment.batch, segment.offset});
    inputs.push_back(segment.keys);
    inputs.push_back(segment.values);
  }
  for (const auto& segment : segments) {
    if (segment.after) {
      inputs.push_back(*segment.after);
    }
  }
  const bool has_norm = form.q_norm != nullptr;
  return {
      mx::Shape{qkv.shape(0), form.n_heads * form.head_dim},
      qkv.dtype(),
      std::make_shared<AttentionPrimitive>(
          runtime,
          DecodeAttentionArgs{
              .type = type_of(qkv),
              .num_heads = form.n_heads,
              .num_kv_heads = form.n_kv_heads,
              .head_dim = form.head_dim,
              .scale = form.scale,
              .window = form.window.value_or(0),
              .norm_eps = has_norm ? form.norm_eps : 0.0F},
          std::move(parts)),
      std::move(inputs)};
}

} // namespace qwen3_mlx::cuda
