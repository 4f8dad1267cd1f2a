// SPDX-License-Identifier: MIT
// The copying warp of warpgroup_gemm.cu: weights and arranged rows through a
// ring in shared memory.
#pragma once

#include <cstdint>

#include "kernels/cuda/warpgroup_plan.cuh"

namespace qwen3_mlx::cuda::warpgroup {

#if defined(QWEN3_MLX_HAS_WARPGROUPS)

// What the copying thread does.
template <int BlockBytes>
class Copies {
 public:
  __device__ __forceinline__ Copies(
      const GemvArgs& args,
      const Plan& plan,
      char* ring,
      std::uint64_t* full)
      : args_(args), plan_(plan), ring_(ring), full_(full),
        x_bytes_(plan.form.block_bytes()) {}

  __device__ __forceinline__ void expect(int stage) const {
    arrive_and_expect(
        full_ + stage,
        static_cast<unsigned>(x_bytes_ + kTileBlocks * BlockBytes));
  }
  __device__ __forceinline__ void weights(int at, int stage) {
    const int k = aim(at);
    copy_box(
        ring_ + stage * (x_bytes_ + kTileBlocks * BlockBytes) + x_bytes_,
        &plan_.weights,
        k * (BlockBytes / 8),
        tile_.n_tile * (args_.gated ? kTileBlocks / 2 : kTileBlocks),
        static_cast<int>(tile_.expert),
        full_ + stage);
  }
  __device__ __forceinline__ void rows(int at, int stage) {
    const int k = aim(at);
    copy_bulk(
        ring_ + stage * (x_bytes_ + kTileBlocks * BlockBytes),
        plan_.arranged +
            static_cast<std::size_t>(tile_.m_tile) * plan_.form.tile_bytes() +
            static_cast<std::size_t>(k) * static_cast<std::size_t>(x_bytes_),
        static_cast<unsigned>(x_bytes_),
        full_ + stage);
  }

 private:
  // The block of columns of that step, whose tile is tile_ from here on.
  __device__ __forceinline__ int aim(int at) {
    const int col_blocks = plan_.form.col_blocks;
    if (at < first_ || at >= first_ + col_blocks) {
      const int idx = at / col_blocks;
      first_ = idx * col_blocks;
      tile_ = tile_at(args_, plan_, idx);
    }
    return at - first_;
  }

  const GemvArgs& args_;
  const Plan& plan_;
  char* ring_;
  std::uint64_t* full_;
  int x_bytes_;
  Tile tile_{};
  int first_ = 0x40000000;
};

template <int BlockBytes>
__device__ __forceinline__ void copy_all(
    const GemvArgs& args,
    const Plan& plan,
    char* ring,
    std::uint64_t* full,
    std::uint64_t* empty) {
  const bool has_experts = plan.grouped.tiles != nullptr;
  if (has_experts) {
    let_next_start();
    wait_for_previous();
  }
  const Run run(plan);
  Copies<BlockBytes> copies(args, plan, ring, full);
  // Without experts weights depend on nothing.
  const int early = min(plan.stages, run.end - run.begin);
  for (int i = 0; i < early; ++i) {
    copies.expect(i);
    copies.weights(run.begin + i, i);
  }
  if (!has_experts) {
    let_next_start();
    wait_for_previous();
  }
  for (int i = 0; i < early; ++i) {
    copies.rows(run.begin + i, i);
  }
  int stage = 0;
  unsigned parity = 0;
  for (int at = run.begin + early; at < run.end; ++at) {
    wait_for(empty + stage, parity);
    copies.expect(stage);
    copies.weights(at, stage);
    copies.rows(at, stage);
    if (++stage == plan.stages) {
      stage = 0;
      parity ^= 1U;
    }
  }
}

#endif

} // namespace qwen3_mlx::cuda::warpgroup
