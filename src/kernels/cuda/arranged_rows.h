// SPDX-License-Identifier: MIT
// Activations as the products of four warps read them (warpgroup_gemm.h).
//
// Rows are put into tiles of a multiple of 8. A tile is its columns, 128 at a
// time, as one run of memory that is copied to shared memory as it is: chunks
// of 8 columns, each with 16 bytes of every row. Within 32 columns the chunk p
// has the pairs 2 p, 8 + 2 p, 16 + 2 p and 24 + 2 p: four neighbouring threads
// hold those of the weights (packed_layout.h).
//
// Codes are multiplied as they are, offset and all, and scaled group by group.
// What that leaves to add, (bias - offset * scale) * (sum of the group's x), is
// one more product of 16 columns: two more chunks have each sum as two or three
// bfloat16, once times -offset for the scale, once for the bias.
#pragma once

#include <cstddef>

#include "kernels/cuda/kernels.h"

namespace qwen3_mlx::cuda {

/// How rows are arranged for one matrix.
struct ArrangedForm {
  int tile_rows = 0;
  bool has_sums = false; ///< Codes are multiplied as they are.
  int col_blocks = 0;

  bool operator==(const ArrangedForm&) const = default;

  QWEN3_MLX_HOST_DEVICE constexpr int chunks() const { // of 128 columns
    return kBlockCols / 8 + (has_sums ? 2 : 0);
  }
  QWEN3_MLX_HOST_DEVICE constexpr int block_bytes() const {
    return chunks() * tile_rows * 16;
  }
  QWEN3_MLX_HOST_DEVICE constexpr std::size_t tile_bytes() const {
    return static_cast<std::size_t>(col_blocks) *
        static_cast<std::size_t>(block_bytes());
  }
};

/// What operands of codes have too much.
QWEN3_MLX_HOST_DEVICE constexpr float code_offset(int bits) {
  return bits == 4 ? 128.0F : 0.0F;
}

struct ArrangeArgs {
  PackedLayout layout; ///< Of the matrix.
  ArrangedForm form;
  const void* x = nullptr; ///< bfloat16
  int num_rows = 0;
  const void* norm = nullptr; ///< x is normed first, with this weight.
  float norm_eps = 0;
  GroupedRows grouped; ///< Tiles of experts, if it has any.
  void* to = nullptr;
};

/// Arranges all rows, or those of at most `max_tiles` tiles of experts.
void arrange_rows(
    const Launcher& launcher,
    const ArrangeArgs& args,
    int max_tiles = 0);

} // namespace qwen3_mlx::cuda
