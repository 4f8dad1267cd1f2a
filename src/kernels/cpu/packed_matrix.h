// SPDX-License-Identifier: MIT
// Between the checkpoint's matrices, packed row by row as MLX has them, and the
// tiles the CPU kernels read.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "kernels/cpu/packed_layout.h"

namespace qwen3_mlx::cpu {

/// Formats of a checkpoint's matrix.
enum class SourceFormat : std::uint8_t { plain, affine, mxfp4, mxfp8, nvfp4 };

/// A matrix [rows, cols] as a checkpoint holds it: row-major elements, or codes
/// of `bits` bits running from the lowest bit up, with scales (and biases)
/// [rows, cols / group]. Scales of mxfp4 and mxfp8 are e8m0 bytes, those of
/// nvfp4 e4m3 bytes.
struct SourceMatrix {
  int rows = 0;
  int cols = 0;
  SourceFormat format = SourceFormat::plain;
  int bits = 0;
  int group = 0;
  Float type = Float::f32; ///< Of plain elements, affine scales and biases.
  const void* weight = nullptr;
  const void* scales = nullptr;
  const void* biases = nullptr;
};

/// Layout that holds `source` exactly: 2 and 3 bits become 4, 5 and 6 become 8,
/// mxfp8 becomes plain bfloat16. Empty when no layout does (a group size the
/// kernels lack, a column count that is no multiple of it).
std::optional<PackedLayout> packed_layout(const SourceMatrix& source);

/// Writes tiles [first_tile, last_tile) to their places in `packed`, which has
/// layout->n_bytes() bytes. Tiles are independent: threads may share the work.
void pack_tiles(
    const SourceMatrix& source,
    const PackedLayout& layout,
    int first_tile,
    int last_tile,
    std::byte* packed);

/// Row `row` of the matrix as float32 [cols]: scale * code + bias, each rounded
/// once.
void unpack_row(
    const PackedLayout& layout,
    const std::byte* packed,
    int row,
    float* out);

/// Inverse of pack_tiles, to the bit: writes rows [first_row, last_row) of
/// weight, scales and biases in the form of `source`, whose pointers are read
/// as destinations.
struct UnpackTarget {
  void* weight = nullptr;
  void* scales = nullptr;
  void* biases = nullptr;
};
void unpack_rows(
    const PackedLayout& layout,
    const std::byte* packed,
    const SourceMatrix& format,
    int first_row,
    int last_row,
    const UnpackTarget& target);

} // namespace qwen3_mlx::cpu
