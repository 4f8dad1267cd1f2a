// SPDX-License-Identifier: MIT
// How a product of many rows is cut into tiles and blocks of threads; the
// kernel is gemm.cu's.
#pragma once

#include "kernels/cuda/kernels.h"

namespace qwen3_mlx::cuda {

inline constexpr int kTileN = 128; ///< Rows of the matrix in a tile.
inline constexpr int kTileBlocks = kTileN / kBlockRows;

struct GemmPlan {
  int m_tiles; ///< Without experts.
  int n_tiles;
  float* partial;
  unsigned* counters;
  GroupedRows grouped;
};

/// Shared memory of a block of threads whose tiles have `tile_m` rows of x.
std::size_t gemm_shared_bytes(const PackedLayout& layout, int tile_m);

/// Starts the kernel with at most `most_blocks` blocks of threads.
void start_gemm(
    const Launcher& launcher,
    const GemvArgs& args,
    const GemmPlan& plan,
    int tile_m,
    int most_blocks);

/// Blocks of threads that run at once.
int gemm_blocks_at_once(
    const Launcher& launcher,
    const PackedLayout& layout,
    int tile_m);

} // namespace qwen3_mlx::cuda
