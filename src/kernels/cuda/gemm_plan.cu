// SPDX-License-Identifier: MIT
#include "kernels/cuda/gemm_plan.h"

#include <algorithm>

namespace qwen3_mlx::cuda {
namespace {

// Blocks of threads for so many tiles: whoever adds up a tile that many share
// does so alone. (4 instead of 16 took 1.4 times as long for few tiles.)
int blocks_for(int tiles, int col_blocks) {
  constexpr int kMostParts = 16;
  return tiles * std::min(col_blocks, kMostParts);
}

int tile_rows(int rows) {
  return rows <= 32 ? 32 : rows <= 64 ? 64 : 128;
}

int n_tiles_of(const GemvArgs& args) {
  return (args.layout.row_blocks() + kTileBlocks - 1) / kTileBlocks;
}

} // namespace

std::size_t gemm_shared_bytes(const PackedLayout& layout, int tile_m) {
  const int stages =
      layout.bits == 8 || (layout.bits == 16 && tile_m == 128) ? 3 : 4;
  return static_cast<std::size_t>(
      stages * (tile_m * kBlockCols * 2 + kTileBlocks * layout.block_bytes()) +
      (tile_m == 32 ? 32 * 128 * static_cast<int>(sizeof(float)) : 0));
}

// Blocks of threads that run at once.
int gemm_blocks_at_once(
    const Launcher& launcher,
    const PackedLayout& layout,
    int tile_m) {
  const auto each = gemm_shared_bytes(layout, tile_m) + 1024;
  const bool two = tile_m < 128 &&
      2 * each <= static_cast<std::size_t>(launcher.shared_bytes) + 1024;
  return launcher.num_sms * (two ? 2 : 1);
}

int fitting_tile_rows(
    const Launcher& launcher,
    const PackedLayout& layout,
    int wanted) {
  int rows = wanted;
  while (rows > 32 &&
         gemm_shared_bytes(layout, rows) + 1024 >
             static_cast<std::size_t>(launcher.shared_bytes)) {
    rows /= 2;
  }
  return rows;
}

bool supports_gemm(
    const Launcher& launcher,
    const PackedLayout& layout,
    Float type) {
  return type != Float::f32 && !layout.has_small_floats() &&
      (!layout.is_plain() || layout.type == type) &&
      gemm_shared_bytes(layout, 32) + 1024 <=
      static_cast<std::size_t>(launcher.shared_bytes);
}

GemmNeeds gemm_needs(const Launcher& launcher, const GemvArgs& args) {
  const int tile_m =
      fitting_tile_rows(launcher, args.layout, tile_rows(args.num_rows));
  const int m_tiles = (args.num_rows + tile_m - 1) / tile_m;
  return {
      static_cast<std::size_t>(
          gemm_blocks_at_once(launcher, args.layout, tile_m)) *
          2 * static_cast<std::size_t>(tile_m == 32 ? 64 : tile_m) * kTileN,
      static_cast<std::size_t>(m_tiles * n_tiles_of(args))};
}

void gemm(
    const Launcher& launcher,
    const GemvArgs& args,
    float* workspace,
    unsigned* counters) {
  const int tile_m =
      fitting_tile_rows(launcher, args.layout, tile_rows(args.num_rows));
  const GemmPlan plan{
      (args.num_rows + tile_m - 1) / tile_m,
      n_tiles_of(args),
      workspace,
      counters,
      {}};
  start_gemm(
      launcher,
      args,
      plan,
      tile_m,
      blocks_for(plan.m_tiles * plan.n_tiles, args.layout.col_blocks()));
}

void grouped_gemm(
    const Launcher& launcher,
    const GemvArgs& args,
    const GroupedRows& grouped) {
  const GemmPlan plan{0, n_tiles_of(args), nullptr, nullptr, grouped};
  start_gemm(
      launcher,
      args,
      plan,
      grouped.tile_rows,
      /* as many blocks as run at once */ 1 << 30);
}

} // namespace qwen3_mlx::cuda
