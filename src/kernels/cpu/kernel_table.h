// SPDX-License-Identifier: MIT
// What one instruction set provides: a table of functions over raw pointers.
// Every set gives the same bits: a vector lane belongs to one output, integer
// dots are exact, float sums run in one order and each multiply-add rounds
// once. So results depend on neither the machine, the number of threads, nor
// what else is in the batch.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "kernels/cpu/packed_layout.h"

namespace qwen3_mlx::cpu {

/// Longest head the attention kernel takes; heads are multiples of 16.
inline constexpr int kMaxHeadDim = 256;
/// Keys of one step of the online softmax; steps begin at multiples of it.
inline constexpr int kKeyBlock = 64;

QWEN3_MLX_INLINE constexpr std::size_t
round_up(std::size_t value, std::size_t step) {
  return (value + step - 1) / step * step;
}

/// An activation row in int8: the codes, then for each group a scale, the
/// scaled sum of the codes (float32) and their plain sum (int32).
struct QuantizedRowLayout {
  int cols = 0;
  int group = 0;

  QWEN3_MLX_INLINE std::size_t num_groups() const {
    return static_cast<std::size_t>(cols / group);
  }
  QWEN3_MLX_INLINE std::size_t scales_at() const {
    return round_up(static_cast<std::size_t>(cols), 64);
  }
  QWEN3_MLX_INLINE std::size_t n_bytes() const {
    return round_up(scales_at() + 12 * num_groups(), 64);
  }
};

/// out[m] = x[m] W^T (+ bias) (+ residual[m]), or, with up_tile_offset,
/// silu(x[m] G^T) * (x[m] U^T) where W holds the rows of G, then those of U.
struct MatmulJob {
  PackedLayout layout;
  const std::byte* weights = nullptr;
  int num_rows = 0;
  /// One pointer a row, into either quantized rows or float32 rows (exact, and
  /// always for plain weights). Float rows are readable up to 64 columns
  /// rounded up, zeros beyond layout.cols.
  const std::byte* const* quantized = nullptr;
  const float* const* floats = nullptr;
  void* const* out = nullptr; ///< [num_rows] pointers to rows of out_type.
  Float out_type = Float::f32;
  const void* bias = nullptr; ///< [layout.rows] of bias_type, or null.
  Float bias_type = Float::f32;
  const void* const* residual = nullptr; ///< [num_rows] rows, or null.
  Float residual_type = Float::f32;
  int up_tile_offset = 0; ///< Tiles from a gate tile to its up tile, or 0.
};

/// Attention of rows that share one key/value head. Row r sees the keys
/// [first_key[r], last_key[r]), at least one.
struct AttentionJob {
  int head_dim = 0;
  float scale = 1;
  const void* keys = nullptr; ///< [num_keys, head_dim] of kv_type.
  const void* values = nullptr;
  Float kv_type = Float::f32;
  std::size_t key_stride = 0; ///< Elements from one key to the next.
  std::size_t value_stride = 0;
  int num_rows = 0;
  const float* const* queries = nullptr; ///< [num_rows] rows [head_dim].
  const int* first_key = nullptr;
  const int* last_key = nullptr;
  void* const* out = nullptr; ///< [num_rows] rows [head_dim] of out_type.
  Float out_type = Float::f32;
  float* scratch = nullptr; ///< attention_scratch(num_rows, head_dim) floats.
};

/// Floats of scratch that an AttentionJob needs.
QWEN3_MLX_INLINE constexpr std::size_t
attention_scratch(int num_rows, int head_dim) {
  return static_cast<std::size_t>(num_rows) *
      static_cast<std::size_t>(head_dim + kKeyBlock) +
      2 * static_cast<std::size_t>(kKeyBlock) *
      static_cast<std::size_t>(head_dim);
}

struct KernelTable {
  std::string_view name;
  /// Reads `count` elements as float32 and sets zeros up to a multiple of 64.
  void (*load_row)(const void* from, Float type, int count, float* to);
  /// Rounds `count` floats to `type`.
  void (*store_row)(const float* from, int count, void* to, Float type);
  /// x * weight / sqrt(mean(x^2) + eps), in place; weight may be null.
  void (*rms_norm)(
      float* x,
      int count,
      const void* weight,
      Float weight_type,
      float eps);
  /// x holds zeros beyond `layout.cols`.
  void (*quantize_row)(
      const float* x,
      const QuantizedRowLayout& layout,
      std::byte* to);
  /// out = silu(gate) * up, padded as load_row pads.
  void (*swiglu)(const float* gate, const float* up, int count, float* out);
  /// to += scale * from, padded as load_row pads.
  void (*add_scaled)(const float* from, float scale, int count, float* to);
  /// Rotates pairs (i, i + rotary_dim / 2) of a head by angles whose cosines
  /// and sines [rotary_dim / 2] are given, in place.
  void (*rotate)(
      float* head,
      int rotary_dim,
      const float* cosines,
      const float* sines);
  /// In place softmax of `count` logits, padded as load_row pads.
  void (*softmax)(float* logits, int count);
  void (*matmul_tiles)(const MatmulJob& job, int first_tile, int last_tile);
  void (*attend)(const AttentionJob& job);
};

} // namespace qwen3_mlx::cpu
