// SPDX-License-Identifier: MIT
// How a block of keys and values lies in memory, as floats or quantized.
#pragma once

#include <cstddef>

#include "kernels/cpu/types.h"

namespace qwen3_mlx::cpu {

/// Longest head the attention kernel takes; heads are multiples of 16.
inline constexpr int kMaxHeadDim = 256;
/// Positions of a block of keys and values, and of a step of the online
/// softmax.
inline constexpr int kKvBlockSize = 64;

/// Where a code is: its byte, and the bit in it where it begins.
struct CodePlace {
  std::size_t byte;
  int shift;
};

/// A block of a layer's keys and values: for each head its keys, then for each
/// head its values.
///
/// As floats, keys are [head_dim][kKvBlockSize], transposed so that a vector
/// lane is a key, and values [kKvBlockSize][head_dim].
///
/// Quantized, a number is scale * code + bias (MLX's mode affine, by position,
/// in groups of a head's components). Codes come in units of 64 bytes, 16 lanes
/// of 4: of keys a lane is a position and a unit holds one component (two in 4
/// bits); of values a lane is a component and a unit holds 4 positions (8).
/// After the codes: [head_dim / group][scale, bias][kKvBlockSize] of `type`.
struct KvShape {
  int n_kv_heads = 0;
  int head_dim = 0; ///< A multiple of 16, at most kMaxHeadDim.
  Float type = Float::f32;
  int bits = 0;  ///< 4 or 8; 0 when keys and values are floats.
  int group = 0; ///< A multiple of 16 that divides head_dim.

  bool operator==(const KvShape&) const = default;

  /// Of the keys of a head, or its values.
  QWEN3_MLX_INLINE std::size_t num_numbers() const {
    return static_cast<std::size_t>(head_dim) * kKvBlockSize;
  }
  QWEN3_MLX_INLINE bool is_quantized() const {
    return bits != 0;
  }
  QWEN3_MLX_INLINE std::size_t head_bytes() const {
    const std::size_t numbers = num_numbers();
    return is_quantized() ? scales_at() +
            2 * numbers / static_cast<std::size_t>(group) * size_of(type)
                          : numbers * size_of(type);
  }
  /// Bytes from the start of a block to the keys, or values, of a head.
  QWEN3_MLX_INLINE std::size_t keys_at(int head) const {
    return static_cast<std::size_t>(head) * head_bytes();
  }
  QWEN3_MLX_INLINE std::size_t values_at(int head) const {
    return keys_at(n_kv_heads + head);
  }
  QWEN3_MLX_INLINE std::size_t block_bytes() const {
    return keys_at(2 * n_kv_heads);
  }

  // Of a quantized head, counted from its start.

  QWEN3_MLX_INLINE std::size_t scales_at() const {
    return num_numbers() * static_cast<std::size_t>(bits) / 8;
  }
  /// Index of a scale behind scales_at(); its bias is kKvBlockSize further.
  QWEN3_MLX_INLINE std::size_t scale_index(int dim, int position) const {
    return static_cast<std::size_t>(dim / group) * 2 * kKvBlockSize +
        static_cast<std::size_t>(position);
  }
  QWEN3_MLX_INLINE CodePlace key_code(int dim, int position) const {
    const int per_byte = 8 / bits;
    return {
        static_cast<std::size_t>(
            dim / per_byte * 64 + position % 16 * 4 + position / 16),
        bits * (dim % per_byte)};
  }
  QWEN3_MLX_INLINE CodePlace value_code(int dim, int position) const {
    const int per_unit = 4 * (8 / bits);
    const int unit = position / per_unit * (head_dim / 16) + dim / 16;
    return {
        static_cast<std::size_t>(unit * 64 + dim % 16 * 4 + position % 4),
        bits * (position % per_unit / 4)};
  }
};

} // namespace qwen3_mlx::cpu
