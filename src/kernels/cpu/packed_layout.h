// SPDX-License-Identifier: MIT
// The one layout in which a weight matrix serves embedding rows, decode, small
// batches and prefill.
//
// 16 rows form a tile, so that one broadcast of activations meets 16 rows and a
// vector lane belongs to one row: no horizontal sums. A tile is a run of
// blocks, one a group of columns:
//   codes  u4, fp4: 64 bytes hold 8 columns, 4 bytes a row; the low nibbles are
//          columns 0..3, the high ones 4..7.  u8: 64 bytes hold 4 columns.
//   scales 16 of `type`, one a row; then 16 biases if has_bias.
// A plain matrix has no groups: its tile is [cols][16] elements, those of
// bfloat16 in pairs of columns [cols / 2][16][2], as dot products of pairs want
// them; columns are filled up to an even number.
// Rows and columns beyond the matrix are zero.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/types.h"

namespace qwen3_mlx::cpu {

inline constexpr int kTileRows = 16;
/// Columns of a group, at most.
inline constexpr int kMostGroupCols = 128;

/// How one weight is stored.
///   u4, u8: an unsigned code; weight = scale * code + bias.
///   fp4:    an e2m1 code; weight = scale * fp4_value(code), where the stored
///           scale is half of the format's, so that the values are integers.
///   plain:  the element itself.
enum class Codes : std::uint8_t { u4, u8, fp4, plain };

/// Twice the values of e2m1: what the code stands for beside a halved scale.
inline constexpr std::int8_t kFp4Values[16] =
    {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
/// Added to kFp4Values where an instruction wants unsigned weights.
inline constexpr int kFp4Offset = 12;

/// Shape and format of a packed matrix; all sizes in bytes follow from it.
struct PackedLayout {
  int rows = 0;
  int cols = 0; ///< A multiple of `group` unless plain.
  Codes codes = Codes::plain;
  Float type = Float::f32; ///< Of the scales and biases, or of the elements.
  int group = 0;           ///< Columns per scale: 16, 32, 64 or 128.
  bool has_bias = false;

  bool operator==(const PackedLayout&) const = default;

  QWEN3_MLX_INLINE int num_tiles() const {
    return (rows + kTileRows - 1) / kTileRows;
  }
  QWEN3_MLX_INLINE int num_groups() const {
    return codes == Codes::plain ? 0 : cols / group;
  }
  /// Columns of a plain tile.
  QWEN3_MLX_INLINE int even_cols() const {
    return cols + cols % 2;
  }
  /// Where a plain tile holds an element, counted in elements.
  QWEN3_MLX_INLINE std::size_t plain_index(int col, int lane) const {
    return static_cast<std::size_t>(
        type == Float::bf16 ? (col / 2 * kTileRows + lane) * 2 + col % 2
                            : col * kTileRows + lane);
  }
  QWEN3_MLX_INLINE std::size_t code_bytes() const { // of one block
    return static_cast<std::size_t>(group) * kTileRows /
        (codes == Codes::u8 ? 1 : 2);
  }
  QWEN3_MLX_INLINE std::size_t block_bytes() const {
    return code_bytes() + kTileRows * size_of(type) * (has_bias ? 2 : 1);
  }
  QWEN3_MLX_INLINE std::size_t tile_bytes() const {
    return codes == Codes::plain
        ? static_cast<std::size_t>(even_cols()) * kTileRows * size_of(type)
        : static_cast<std::size_t>(num_groups()) * block_bytes();
  }
  QWEN3_MLX_INLINE std::size_t n_bytes() const {
    return tile_bytes() * static_cast<std::size_t>(num_tiles());
  }
};

} // namespace qwen3_mlx::cpu
