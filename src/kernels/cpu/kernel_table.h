// SPDX-License-Identifier: MIT
// What one instruction set provides: a table of functions over raw pointers.
// Every set gives the same bits: a vector lane belongs to one output, integer
// dots are exact, float sums run in one order and each multiply-add rounds
// once. So results depend on neither the machine, the number of threads, nor
// what else is in the batch. The exception: avx512bf16, in attention and in
// products with bfloat16 matrices.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "kernels/cpu/kv_layout.h"
#include "kernels/cpu/packed_layout.h"

namespace qwen3_mlx::cpu {

/// Positions whose sums are kept apart: see AttentionJob.
inline constexpr int kSpanKeys = 8 * kKvBlockSize;

QWEN3_MLX_INLINE constexpr std::size_t
round_up(std::size_t value, std::size_t step) {
  return (value + step - 1) / step * step;
}

/// Rows that pass over a run of tiles together: their activations and the run
/// stay in the L2 cache.
inline constexpr int kPanelRows = 60;

/// What a second code divides a step of the first one by.
inline constexpr int kFineSteps = 254;

/// Rows of a block of activations, at most.
inline constexpr int kMostBlockRows = 16;

/// In what form a block of rows of activations meets the weights. Each lies as
/// units of four bytes, a unit of each row after the other: [units][num_rows].
enum class RowForm : std::uint8_t {
  int8,       ///< Four codes, and what QuantizedLayout says.
  f32,        ///< One float. Exact, and for plain weights.
  bf16_pairs, ///< Two elements, for plain bfloat16 weights.
};

/// A group of a row that has second codes.
struct FineGroup {
  std::int32_t group;
  std::int32_t row;
  std::int32_t code_sum; ///< Of its second codes.
  float scale;           ///< Of its second codes.
};

/// Activation rows in int8, a block of `num_rows` that meet the weights
/// together: their codes, four columns of each row after the other
/// [cols / 4][num_rows][4]; then for each group and row a scale
/// [groups][num_rows], likewise the scaled sum of its elements (float32) and
/// the sum of its codes (int32); then the fine groups.
///
/// A group whose largest element stands out from the row is fine: second codes
/// give what remains of its elements, in parts of a step, so that they are not
/// lost beside the large one. Few groups are fine, and most of the error of
/// plain int8 comes from them. Their number (int32) comes first, then each of
/// them, by group and then by row, then their second codes [fine][group].
struct QuantizedLayout {
  int cols = 0;
  int group = 0;
  int num_rows = 1;

  QWEN3_MLX_INLINE std::size_t num_groups() const {
    return static_cast<std::size_t>(cols / group);
  }
  /// Of one row's codes.
  QWEN3_MLX_INLINE std::size_t code_bytes() const {
    return round_up(static_cast<std::size_t>(cols), 64);
  }
  /// Scales, or sums, of all rows.
  QWEN3_MLX_INLINE std::size_t num_scales() const {
    return num_groups() * static_cast<std::size_t>(num_rows);
  }
  QWEN3_MLX_INLINE std::size_t scales_at() const {
    return static_cast<std::size_t>(num_rows) * code_bytes();
  }
  QWEN3_MLX_INLINE std::size_t num_fine_at() const {
    return scales_at() + 12 * num_scales();
  }
  QWEN3_MLX_INLINE std::size_t fine_groups_at() const {
    return num_fine_at() + sizeof(std::int32_t);
  }
  QWEN3_MLX_INLINE std::size_t second_codes_at() const {
    return round_up(fine_groups_at() + sizeof(FineGroup) * num_scales(), 64);
  }
  QWEN3_MLX_INLINE std::size_t n_bytes() const {
    return second_codes_at() + scales_at();
  }
};

/// out[m] = x[m] W^T (+ bias) (+ residual[m]), or, with up_tile_offset,
/// silu(x[m] G^T) * (x[m] U^T) where W holds the rows of G, then those of U.
struct MatmulJob {
  PackedLayout layout;
  const std::byte* weights = nullptr;
  int num_rows = 0;
  /// Blocks of rows of activations, block_rows in each but perhaps the last,
  /// with zeros beyond layout.cols up to a multiple of 64.
  RowForm form = RowForm::int8;
  const std::byte* const* blocks = nullptr;
  int block_rows = 0;
  void* const* out = nullptr; ///< [num_rows] pointers to rows of out_type.
  Float out_type = Float::f32;
  const void* bias = nullptr; ///< [layout.rows] of bias_type, or null.
  Float bias_type = Float::f32;
  const void* const* residual = nullptr; ///< [num_rows] rows, or null.
  Float residual_type = Float::f32;
  int up_tile_offset = 0; ///< Tiles from a gate tile to its up tile, or 0.
};

/// The positions that a row sees: [first, last), at least one, and
/// [first_kept, last_kept) before them.
struct SeenKeys {
  int first_kept = 0;
  int last_kept = 0;
  int first = 0;
  int last = 0;
};

/// Attention of rows that share one key/value head of a sequence.
///
/// The online softmax is taken over spans of kSpanKeys positions, each from
/// nothing, and the spans' results are merged in their order. Spans begin at
/// fixed positions, so that threads may share them without changing a bit.
struct AttentionJob {
  KvShape shape;
  /// Positions below head_length are in blocks of another shape.
  KvShape head_shape;
  int head_length = 0;
  int kv_head = 0;
  float scale = 1;
  const std::byte* const* blocks = nullptr; ///< As in a BlockTable.
  const std::byte* const* head_blocks = nullptr;
  int num_rows = 0;
  const float* const* queries = nullptr; ///< [num_rows] rows [head_dim].
  const SeenKeys* seen = nullptr;        ///< [num_rows]
  /// Either all spans are taken, into [num_rows] rows [head_dim] of out_type...
  void* const* out = nullptr;
  Float out_type = Float::f32;
  /// ...or `span` alone, into [num_rows] rows of partial_size(head_dim).
  float* partial = nullptr;
  int span = 0;
  float* scratch = nullptr; ///< attention_scratch(num_rows, head_dim) floats.
  /// Queries and weights stay in float32; otherwise they may be rounded to
  /// the bfloat16 of the cache.
  bool exact = false;
};

/// Floats of an unfinished row: the weighted sum of values, the largest score
/// and the sum of weights.
QWEN3_MLX_INLINE constexpr std::size_t partial_size(int head_dim) {
  return static_cast<std::size_t>(head_dim) + 16;
}

/// Floats of scratch that an AttentionJob needs.
QWEN3_MLX_INLINE constexpr std::size_t
attention_scratch(int num_rows, int head_dim) {
  return static_cast<std::size_t>(num_rows) *
      (2 * partial_size(head_dim) + kKvBlockSize) +
      (2 * static_cast<std::size_t>(kKvBlockSize) +
       (static_cast<std::size_t>(num_rows) + 1) / 2) *
      static_cast<std::size_t>(head_dim);
}

struct KernelTable {
  std::string_view name;
  /// Rows that meet a weight together, while it is in registers: in int8, and
  /// in the other forms.
  int max_block_rows = 1;
  int max_float_rows = 1;
  /// Has products of bfloat16 pairs.
  bool has_bf16_pairs = false;
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
  /// Makes a block of layout.num_rows rows, each of which holds zeros beyond
  /// `layout.cols`.
  void (*quantize_rows)(
      const float* const* x,
      const QuantizedLayout& layout,
      std::byte* to);
  /// Quantizes a group of `count` floats, a multiple of 16 up to kMaxHeadDim,
  /// as MLX's mode affine does: x is about scale * code + bias.
  void (*quantize_affine)(
      const float* x,
      int count,
      int bits,
      std::uint8_t* codes,
      float* scale,
      float* bias);
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
  /// Index of the largest of `count` values, the first among equals; NaN never
  /// wins.
  std::uint32_t (*arg_max)(const void* values, Float type, int count);
  void (*matmul_tiles)(const MatmulJob& job, int first_tile, int last_tile);
  void (*attend)(const AttentionJob& job);
  /// Merges the results of spans of one row, `stride` floats apart, in their
  /// order, and rounds the outcome to `out`. Rows of spans are overwritten.
  void (*merge_spans)(
      float* partials,
      std::size_t stride,
      int num_spans,
      int head_dim,
      void* out,
      Float out_type);
};

} // namespace qwen3_mlx::cpu
