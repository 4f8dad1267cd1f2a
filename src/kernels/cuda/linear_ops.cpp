// SPDX-License-Identifier: MIT
#include "kernels/cuda/ops.h"

#include <algorithm>
#include <utility>

#include "kernels/cuda/primitive.h"
#include "kernels/cuda/warpgroup_few_rows.h"
#include "kernels/cuda/warpgroup_gemm.h"
#include "mlx/ops.h"
#include "qwen3_mlx/error.h"

namespace qwen3_mlx::cuda {

namespace {

// Rows up to which reading a matrix once for each eight beats making it plain,
// where gemm() does not take them.
constexpr int kMaxRowsOfGemv = 32;
// Rows up to which gemv() beats warpgroup_gemm().
constexpr int kMaxRowsBeforeWarpgroups = 5;
// Rows up to which gemm() beats making the matrix plain.
constexpr int kMaxRowsOfGemm = 256;

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
    const Launcher& launcher = runtime()->launcher;
    const bool by_warpgroups =
        supports_warpgroup_gemm(launcher, layout_, args.type);
    if (runtime()->exact ||
        args.num_rows <=
            (by_warpgroups ? kMaxRowsBeforeWarpgroups : kMaxGemvRows) ||
        !supports_gemm(launcher, layout_, args.type)) {
      gemv(operands.launcher(), args);
    } else if (by_warpgroups) {
      run_warpgroups(operands, args);
    } else {
      run_gemm(operands, args);
    }
  }

  const char* name() const override {
    return "CudaLinear";
  }

 private:
  void run_warpgroups(Operands& operands, GemvArgs args) const {
    if (prefers_few_rows(
            operands.launcher(), layout_, args.type, args.num_rows)) {
      few_rows_gemm(operands.launcher(), args, {});
      return;
    }
    const ArrangedForm form = arranged_form(layout_, args.num_rows);
    const int tiles = (args.num_rows + form.tile_rows - 1) / form.tile_rows;
    void* const arranged =
        operands.temporary(static_cast<std::size_t>(tiles) * form.tile_bytes());
    arrange_rows(
        operands.launcher(),
        {.layout = layout_,
         .form = form,
         .x = args.x,
         .num_rows = args.num_rows,
         .norm = args.norm,
         .norm_eps = eps_,
         .to = arranged});
    args.norm = nullptr;
    const auto [workspace, counters] = room_for(
        operands, warpgroup_gemm_needs(operands.launcher(), args, form, tiles));
    warpgroup_gemm(
        operands.launcher(), args, form, arranged, {}, workspace, counters);
  }

  void run_gemm(Operands& operands, GemvArgs args) const {
    if (args.norm != nullptr) {
      void* const normed = operands.temporary(
          static_cast<std::size_t>(args.num_rows) *
          static_cast<std::size_t>(layout_.cols) * size_of(args.type));
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
    const auto [workspace, counters] =
        room_for(operands, gemm_needs(operands.launcher(), args));
    gemm(operands.launcher(), args, workspace, counters);
  }

  PackedLayout layout_;
  bool has_norm_;
  float eps_;
  bool has_bias_;
  bool has_residual_;
  bool gated_;
};

// Rows of a matrix as they are: those of `tokens`, or all.
class RowsPrimitive final : public CudaPrimitive {
 public:
  explicit RowsPrimitive(const Blocks& blocks)
      : CudaPrimitive(blocks.runtime), layout_(blocks.layout) {}

  // weight, then tokens (uint32) unless it is all rows
  void
  run(Operands& operands,
      const std::vector<mx::array>& inputs,
      mx::array& out) override {
    void* const to = operands.output(out);
    const void* const weight = operands.input(inputs[0]);
    const Launcher launcher = operands.launcher();
    if (inputs.size() == 1) {
      unpack(launcher, layout_, weight, type_of(out), to);
      return;
    }
    gather_rows(
        launcher,
        layout_,
        weight,
        static_cast<const std::uint32_t*>(operands.input(inputs[1])),
        static_cast<int>(inputs[1].size()),
        type_of(out),
        to,
        operands.advance());
  }

  const char* name() const override {
    return "CudaRows";
  }

 private:
  PackedLayout layout_;
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
  return (w.blocks->runtime->exact ||
          n_rows <= static_cast<std::size_t>(most)) &&
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
      std::make_shared<RowsPrimitive>(*w.blocks),
      {w.weight,
       dense(
           tokens.dtype() == mx::uint32 ? tokens
                                        : mx::astype(tokens, mx::uint32))}};
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
          std::make_shared<RowsPrimitive>(all),
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

} // namespace qwen3_mlx::cuda
