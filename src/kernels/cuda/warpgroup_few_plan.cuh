// SPDX-License-Identifier: MIT
// How the products of warpgroup_few_rows.cu are cut.
//
// A unit is a tile of the matrix, some rows of blocks, for one tile of rows of
// x. The blocks of threads of a cluster share a unit by its columns; alone, a
// block takes one unit after the other.
#pragma once

#include <cuda.h>

#include "kernels/cuda/warpgroup_steps.cuh"

namespace qwen3_mlx::cuda::few_rows {

constexpr int kMaxComputeWarps = 12;
constexpr int kRowWarps = 8; // that fetch, and arrange x
constexpr int kMaxThreads = (kMaxComputeWarps + kRowWarps) * 32;
constexpr int kMaxStages = 12;
constexpr int kMaxSplits = 8;
// Units whose sums of squares are kept: more than steps are under way.
constexpr int kSquareUnits = kMaxStages + 4;
// Of barriers and squares.
constexpr int kStaticBytes = 3 * 8 * kMaxStages + kSquareUnits * kRowWarps * 32;

struct Plan {
  CUtensorMap weights;
  int tile_blocks; // rows of blocks of a tile
  int n_tiles;
  int splits; // blocks of threads of a cluster
  int stages;
  GroupedRows grouped;
};

constexpr int compute_warps(int tile_blocks) { // whole groups of four
  return (tile_blocks + 7) / 8 * 4;
}

// Chunks of eight columns of a step of x, sums included.
template <int Group>
inline constexpr int chunks = kBlockCols / 8 + (Group == 0 ? 0 : 2);

// Bytes of a step of x, and of the norm's weights behind it.
template <int Group, int N>
inline constexpr int row_bytes = chunks<Group>* N * 16 + kBlockCols * 2;

// Floats between the sums of two rows of x: no two threads that write at once
// meet in a bank.
QWEN3_MLX_HOST_DEVICE constexpr int sums_pitch(int tile_blocks) {
  return tile_blocks * kBlockRows + 4;
}

#if defined(QWEN3_MLX_HAS_WARPGROUPS)

// What this block of threads does: of each of its units the blocks of columns
// [begin, end).
struct Share {
  int rank; // in the cluster
  int first_unit;
  int unit_step;
  int begin;
  int end;

  __device__ __forceinline__ Share(const GemvArgs& args, const Plan& plan) {
    const int col_blocks = args.layout.col_blocks();
    const int block = static_cast<int>(blockIdx.x);
    first_unit = block / plan.splits;
    rank = block - first_unit * plan.splits;
    unit_step = static_cast<int>(gridDim.x) / plan.splits;
    begin = col_blocks * rank / plan.splits;
    end = col_blocks * (rank + 1) / plan.splits;
  }
  __device__ __forceinline__ int steps() const {
    return end - begin;
  }
};

// To be asked for when the kernel ahead has ended, if there are experts.
__device__ __forceinline__ int num_units(const Plan& plan) {
  return plan.grouped.tiles != nullptr ? *plan.grouped.num_tiles * plan.n_tiles
                                       : plan.n_tiles;
}

struct Unit {
  int n_tile;
  int first_row; // of x, or of the sorted rows
  int num_rows;
  int expert;
};

__device__ __forceinline__ Unit
unit_at(const GemvArgs& args, const Plan& plan, int idx) {
  if (plan.grouped.tiles == nullptr) {
    return {idx, 0, args.num_rows, 0};
  }
  const int m_tile = idx / plan.n_tiles;
  const ExpertTile of = plan.grouped.tiles[m_tile];
  return {
      idx - m_tile * plan.n_tiles,
      of.first,
      of.count,
      static_cast<int>(of.expert)};
}

#endif

} // namespace qwen3_mlx::cuda::few_rows
