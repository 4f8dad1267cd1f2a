// SPDX-License-Identifier: MIT
// How the products of warpgroup_gemm.cu are cut: tiles of rows, and the run of
// all tiles' columns, of which each block of threads has a part.
#pragma once

#include <cuda.h>

#include "kernels/cuda/warpgroup.cuh"
#include "kernels/cuda/warpgroup_gemm.h"

namespace qwen3_mlx::cuda::warpgroup {

constexpr int kComputeWarps = 8;
constexpr int kComputeThreads = kComputeWarps * 32;
constexpr int kThreads = kComputeThreads + 32;
// Blocks of threads that a multiprocessor has at once.
QWEN3_MLX_HOST_DEVICE constexpr int blocks_per_sm(int tile_rows) {
  return tile_rows <= 32 ? 2 : 1;
}
constexpr int kTileN = 128; // rows of the matrix
constexpr int kTileBlocks = kTileN / kBlockRows;
constexpr int kMaxStages = 8;
// Rows of x that a warp stores at once, and floats between them.
constexpr int kStoreRows = 16;
constexpr int kStoreStride = 20;
constexpr int kStoreBytes = kComputeWarps * kStoreRows * kStoreStride * 4;
// Up to so many rows of x codes are scaled after the product.
constexpr int kMaxExactRows = 64;
constexpr int kMaxTileRows = 128;

struct Plan {
  CUtensorMap weights; // [expert, row of blocks, half if gated, bytes / 8]
  ArrangedForm form;
  const char* arranged;
  int m_tiles; // without experts
  int n_tiles;
  int stages;
  bool whole; // tiles are not cut
  float* partial;
  unsigned* counters;
  GroupedRows grouped;
};

// Blocks of threads among which so many tiles are cut: a part of a tile must be
// worth the meeting with the others, and few tiles are cut alike.
__host__ __device__ __forceinline__ int
useful_blocks(int tiles, int col_blocks, int most) {
  constexpr int kMinSteps = 4;
  const int wanted = tiles * col_blocks / kMinSteps;
  const int blocks = wanted < 1 ? 1 : wanted < most ? wanted : most;
  return tiles < 1 || tiles >= blocks ? blocks : blocks / tiles * tiles;
}

#if defined(QWEN3_MLX_HAS_WARPGROUPS)

__device__ __forceinline__ int part(int total, int idx, int count) {
  return static_cast<int>(
      static_cast<unsigned long long>(total) * static_cast<unsigned>(idx) /
      static_cast<unsigned>(count));
}

// Where a tile lies.
struct Tile {
  int m_tile;
  int n_tile;
  int first_row; // of x, or of the sorted rows
  int num_rows;
  unsigned expert;
};

__device__ __forceinline__ Tile
tile_at(const GemvArgs& args, const Plan& plan, int idx) {
  Tile tile;
  if (plan.grouped.tiles != nullptr) {
    tile.m_tile = idx / plan.n_tiles;
    tile.n_tile = idx - tile.m_tile * plan.n_tiles;
    const ExpertTile of = plan.grouped.tiles[tile.m_tile];
    tile.expert = of.expert;
    tile.first_row = of.first;
    tile.num_rows = of.count;
  } else {
    tile.n_tile = idx / plan.m_tiles;
    tile.m_tile = idx - tile.n_tile * plan.m_tiles;
    tile.expert = 0;
    tile.first_row = tile.m_tile * plan.form.tile_rows;
    tile.num_rows = min(plan.form.tile_rows, args.num_rows - tile.first_row);
  }
  return tile;
}

// This block of threads' part of the run: steps of 128 columns.
struct Run {
  int blocks; // that have a part
  int begin;
  int end;
  int total;

  __device__ __forceinline__ explicit Run(const Plan& plan) {
    const int col_blocks = plan.form.col_blocks;
    const int m_tiles =
        plan.grouped.tiles != nullptr ? *plan.grouped.num_tiles : plan.m_tiles;
    const int tiles = m_tiles * plan.n_tiles;
    total = tiles * col_blocks;
    const int block = static_cast<int>(blockIdx.x);
    const int each = plan.whole ? col_blocks : 1;
    blocks = plan.whole
        ? static_cast<int>(gridDim.x)
        : useful_blocks(tiles, col_blocks, static_cast<int>(gridDim.x));
    begin = block < blocks ? part(total / each, block, blocks) * each : total;
    end = block < blocks ? part(total / each, block + 1, blocks) * each : total;
  }
};

#endif

} // namespace qwen3_mlx::cuda::warpgroup
