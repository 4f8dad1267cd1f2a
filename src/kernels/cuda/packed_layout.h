// SPDX-License-Identifier: MIT
// The one layout in which a weight matrix serves embedding rows, decode, small
// batches and prefill on an NVIDIA GPU.
//
// 8 rows of 128 columns form a block: what one warp feeds to eight
// m16n8k16 products as their second operand. A thread of the warp belongs to
// row lane / 4 and holds, of each quarter of 32 columns, the eight neighbours
// that begin at column 8 * (lane % 4), so that activations are read as they lie
// in memory. A row of blocks runs along the columns; blocks are
//   codes   4 bits: 16 bytes a thread, 4 a quarter, column j of the eight in
//           nibble j / 2, or 4 + j / 2 if j is odd: one shift and one
//           logical operation then make two bfloat16 of neighbours.
//           8 bits: two runs of 16 bytes a thread, a quarter is 8 of them.
//           16 bits (not quantized): four runs of 16 bytes, one a quarter.
//           Small floats (CodeForm) lie as codes of as many bits.
//   scales  for each group of columns 8 pairs of a scale and a bias, one a row.
// Columns and rows beyond the matrix are zero, with zero scales.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(__CUDACC__)
#define QWEN3_MLX_HOST_DEVICE __host__ __device__
#else
#define QWEN3_MLX_HOST_DEVICE
#endif

namespace qwen3_mlx::cuda {

inline constexpr int kBlockRows = 8;
inline constexpr int kBlockCols = 128;

/// A 16-bit float: of scales, of plain weights, of activations.
enum class Float : std::uint8_t { bf16, f16, f32 };

QWEN3_MLX_HOST_DEVICE constexpr std::size_t size_of(Float type) {
  return type == Float::f32 ? 4 : 2;
}

/// What codes mean, and the pair of 16-bit floats that a group of a row has.
enum class CodeForm : std::uint8_t {
  affine, ///< Scale and bias: scale * code + bias.
  e4m3,   ///< Floats of 8 bits (mxfp8); a scale, and nothing.
  e2m1,   ///< Floats of 4 bits (nvfp4); the scale of each half of the group.
};

/// Shape and format of a packed matrix; all sizes in bytes follow from it.
struct PackedLayout {
  int rows = 0;
  int cols = 0;
  int bits = 16; ///< 4 or 8 with scales, 16 for plain elements.
  int group = 0; ///< Columns a scale: 32, 64 or 128; 0 for plain elements.
  Float type = Float::bf16; ///< Of scales and biases, or of the elements.
  /// Small floats are of groups of 32, with scales in bfloat16.
  CodeForm form = CodeForm::affine;

  bool operator==(const PackedLayout&) const = default;

  QWEN3_MLX_HOST_DEVICE constexpr bool is_plain() const {
    return bits == 16;
  }
  QWEN3_MLX_HOST_DEVICE constexpr bool has_small_floats() const {
    return form != CodeForm::affine;
  }
  QWEN3_MLX_HOST_DEVICE constexpr int row_blocks() const {
    return (rows + kBlockRows - 1) / kBlockRows;
  }
  QWEN3_MLX_HOST_DEVICE constexpr int col_blocks() const {
    return (cols + kBlockCols - 1) / kBlockCols;
  }
  QWEN3_MLX_HOST_DEVICE constexpr int padded_cols() const {
    return col_blocks() * kBlockCols;
  }
  QWEN3_MLX_HOST_DEVICE constexpr int code_bytes() const { // of a block
    return kBlockRows * kBlockCols / 8 * bits;
  }
  QWEN3_MLX_HOST_DEVICE constexpr int block_bytes() const {
    return code_bytes() + (group == 0 ? 0 : kBlockCols / group * 32);
  }
  /// Of the blocks of eight rows.
  QWEN3_MLX_HOST_DEVICE constexpr std::size_t row_bytes() const {
    return static_cast<std::size_t>(col_blocks()) *
        static_cast<std::size_t>(block_bytes());
  }
  QWEN3_MLX_HOST_DEVICE constexpr std::size_t n_bytes() const {
    return row_bytes() * static_cast<std::size_t>(row_blocks());
  }
};

/// Code `idx` of a run of them as MLX packs it, from each byte's lowest bit on.
QWEN3_MLX_HOST_DEVICE constexpr unsigned
code_at(const unsigned char* codes, std::size_t idx, int bits) {
  const std::size_t bit = idx * static_cast<std::size_t>(bits);
  const int shift = static_cast<int>(bit % 8);
  unsigned code = static_cast<unsigned>(codes[bit / 8]) >> shift;
  if (shift + bits > 8) {
    code |= static_cast<unsigned>(codes[bit / 8 + 1]) << (8 - shift);
  }
  return code & ((1U << bits) - 1);
}

/// mxfp4's numbers are whole multiples of half its scale, from -12 to 12: as
/// codes of an affine format they are exact.
inline constexpr int kMxfp4Offset = 12;

/// Twice the number that a code of mxfp4 means, on kMxfp4Offset.
QWEN3_MLX_HOST_DEVICE constexpr unsigned mxfp4_as_affine(unsigned code) {
  const int exponent = static_cast<int>(code >> 1 & 3U);
  const int fraction = static_cast<int>(code & 1U);
  const int twice = exponent == 0 ? fraction : (2 + fraction) << (exponent - 1);
  return static_cast<unsigned>(
      (code & 8U) != 0 ? kMxfp4Offset - twice : kMxfp4Offset + twice);
}

/// The number that a code of e4m3 means, but for its NaN.
QWEN3_MLX_HOST_DEVICE constexpr float e4m3_value(unsigned code) {
  const int exponent = static_cast<int>(code >> 3 & 15U);
  const int fraction = static_cast<int>(code & 7U);
  // Whole multiples of 2^-9.
  const int multiple =
      exponent == 0 ? fraction : (8 + fraction) << (exponent - 1);
  const float value = static_cast<float>(multiple) / 512;
  return (code & 128U) != 0 ? -value : value;
}

/// Where the code of one element lies in its block: the byte, and the shift in
/// it. `row` is in [0, 8) and `col` in [0, 128).
struct CodePlace {
  int byte;
  int shift;
};

QWEN3_MLX_HOST_DEVICE constexpr CodePlace
code_place(int bits, int row, int col) {
  const int quarter = col / 32;
  const int lane = row * 4 + col % 32 / 8;
  const int j = col % 8;
  if (bits == 4) {
    const int nibble = (j % 2) * 4 + j / 2;
    return {lane * 16 + quarter * 4 + nibble / 2, nibble % 2 * 4};
  }
  if (bits == 8) {
    return {quarter / 2 * 512 + lane * 16 + quarter % 2 * 8 + j, 0};
  }
  return {quarter * 512 + lane * 16 + j * 2, 0};
}

/// Byte in its block of the scale of one element; its bias follows after it.
QWEN3_MLX_HOST_DEVICE constexpr int
scale_place(const PackedLayout& layout, int row, int col) {
  return layout.code_bytes() + col / layout.group * 32 + row * 4;
}

} // namespace qwen3_mlx::cuda
