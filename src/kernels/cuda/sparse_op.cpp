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

// Pairs of a token and an expert that one operation takes: blocks of a launch.
constexpr int kMaxPairs = 65535;

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
        {.logits = operands.input(inputs[1]),
         .type = type_of(inputs[1]),
         .num_experts = num_experts_,
         .k = top_k_,
         .normalize = normalize_,
         .experts = experts,
         .weights = mix},
        n);
    GemvArgs gate_up{
        .layout = gate_up_,
        .weight = operands.input(inputs[3]),
        .x = operands.input(inputs[0]),
        .y = hidden,
        .type = type,
        .num_rows = n * top_k_,
        .gated = true,
        .num_experts = num_experts_};
    GemvArgs down{
        .layout = down_,
        .weight = operands.input(inputs[4]),
        .x = hidden,
        .y = parts,
        .type = type,
        .num_rows = n * top_k_,
        .num_experts = num_experts_};
    gate_up.norm = operands.input(inputs[2]);
    gate_up.norm_eps = eps_;
    if (runtime()->exact) {
      run_one_by_one(launch, experts, gate_up, down);
    } else if (pairs_sorted(launch, gate_up, down)) {
      run_grouped(operands, launch, experts, gate_up, down);
    } else {
      gate_up.rows_per_x = top_k_;
      gate_up.experts = down.experts = experts;
      gemv(launch, gate_up);
      gemv(launch, down);
    }
    weighted_sum(
        launch,
        {.residual = operands.input(inputs[0]),
         .parts = parts,
         .weights = mix,
         .type = type,
         .k = top_k_,
         .cols = down_.rows,
         .out = to},
        n);
  }

  const char* name() const override {
    return "CudaSparse";
  }

 private:
  // Few pairs meet most of their experts alone, or nearly so.
  bool pairs_sorted(
      const Launcher& launcher,
      const GemvArgs& gate_up,
      const GemvArgs& down) const {
    return gate_up.num_rows >= min_grouped_pairs(launcher, num_experts_) &&
        supports_gemm(launcher, gate_up_, gate_up.type) &&
        supports_gemm(launcher, down_, down.type);
  }

  // How a product is cut depends on the number of pairs: here it is one
  // token's.
  void run_one_by_one(
      const Launcher& launcher,
      const std::uint32_t* experts,
      GemvArgs gate_up,
      GemvArgs down) const {
    const int n = gate_up.num_rows / top_k_;
    const auto bytes = [&](int count) {
      return static_cast<std::size_t>(count) * size_of(gate_up.type);
    };
    gate_up.num_rows = down.num_rows = gate_up.rows_per_x = top_k_;
    for (int token = 0; token < n; ++token) {
      gate_up.experts = down.experts = experts + token * top_k_;
      gemv(launcher, gate_up);
      gemv(launcher, down);
      gate_up.x = static_cast<const char*>(gate_up.x) + bytes(gate_up_.cols);
      gate_up.y =
          static_cast<char*>(gate_up.y) + bytes(top_k_ * gate_up_.rows / 2);
      down.x = gate_up.y;
      down.y = static_cast<char*>(down.y) + bytes(top_k_ * down_.rows);
    }
  }

  // Each expert's rows after each other, so that its matrices are read once.
  void run_grouped(
      Operands& operands,
      const Launcher& launcher,
      const std::uint32_t* experts,
      const GemvArgs& gate_up,
      const GemvArgs& down) const {
    const int pairs = gate_up.num_rows;
    const bool by_warpgroups =
        supports_warpgroup_gemm(launcher, gate_up_, gate_up.type) &&
        supports_warpgroup_gemm(launcher, down_, down.type);
    const int wanted = expert_tile_rows(pairs, num_experts_);
    const int tile_rows = by_warpgroups
        ? arranged_form(gate_up_, expert_rows(pairs, num_experts_)).tile_rows
        : std::min(
              fitting_tile_rows(launcher, gate_up_, wanted),
              fitting_tile_rows(launcher, down_, wanted));
    const int max_tiles = max_expert_tiles(pairs, num_experts_, tile_rows);
    auto* const sorted = static_cast<int*>(
        operands.temporary(static_cast<std::size_t>(pairs) * sizeof(int)));
    auto* const num_tiles = static_cast<int*>(operands.temporary(sizeof(int)));
    auto* const tiles = static_cast<ExpertTile*>(operands.temporary(
        sizeof(ExpertTile) * static_cast<std::size_t>(max_tiles)));
    sort_by_expert(
        launcher,
        experts,
        pairs,
        num_experts_,
        tile_rows,
        sorted,
        tiles,
        num_tiles);
    GroupedRows rows{
        .tiles = tiles,
        .num_tiles = num_tiles,
        .tile_rows = tile_rows,
        .in_rows = sorted,
        .rows_per_x = top_k_};
    const auto multiply = [&](const GemvArgs& args) {
      by_warpgroups ? run_warpgroups(operands, launcher, args, rows, max_tiles)
                    : run_tiles(operands, launcher, args, rows);
    };
    multiply(gate_up);
    rows.in_rows = nullptr;
    rows.out_rows = sorted;
    multiply(down);
  }

  static void run_warpgroups(
      Operands& operands,
      const Launcher& launcher,
      GemvArgs args,
      const GroupedRows& rows,
      int max_tiles) {
    if (prefers_few_expert_rows(
            launcher, args.layout, args.type, rows.tile_rows)) {
      few_rows_gemm(launcher, args, rows);
      return;
    }
    const ArrangedForm form = arranged_form(args.layout, rows.tile_rows);
    void* const arranged = operands.temporary(
        static_cast<std::size_t>(max_tiles) * form.tile_bytes());
    arrange_rows(
        launcher,
        {.layout = args.layout,
         .form = form,
         .x = args.x,
         .num_rows = args.num_rows,
         .norm = args.norm,
         .norm_eps = args.norm_eps,
         .grouped = rows,
         .to = arranged},
        max_tiles);
    args.norm = nullptr;
    const auto [workspace, counters] = room_for(
        operands, warpgroup_gemm_needs(launcher, args, form, max_tiles));
    warpgroup_gemm(launcher, args, form, arranged, rows, workspace, counters);
  }

  void run_tiles(
      Operands& operands,
      const Launcher& launcher,
      GemvArgs args,
      const GroupedRows& rows) const {
    if (args.norm != nullptr) {
      const int n = args.num_rows / rows.rows_per_x;
      void* const normed = operands.temporary(
          static_cast<std::size_t>(n) *
          static_cast<std::size_t>(args.layout.cols) * size_of(args.type));
      rms_norm(
          launcher,
          args.x,
          args.norm,
          args.norm_eps,
          args.type,
          n,
          args.layout.cols,
          normed);
      args.x = normed;
      args.norm = nullptr;
    }
    grouped_gemm(launcher, args, rows);
  }

  PackedLayout gate_up_;
  PackedLayout down_;
  int num_experts_;
  float eps_;
  int top_k_;
  bool normalize_;
};

} // namespace

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

} // namespace qwen3_mlx::cuda
