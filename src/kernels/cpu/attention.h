// SPDX-License-Identifier: MIT
// Attention with what surrounds it: q/k norm, rotation, append to the cache.
#pragma once

#include <optional>
#include <vector>

#include "kernels/cpu/context.h"

namespace qwen3_mlx::cpu {

/// A sequence's keys and values: [n_kv_heads, capacity, head_dim], strides in
/// elements; components of a head lie side by side.
struct KvView {
  void* keys = nullptr;
  void* values = nullptr;
  std::size_t key_head_stride = 0;
  std::size_t value_head_stride = 0;
  std::size_t token_stride = 0;
};

/// Consecutive rows of a step that belong to one sequence. Its first row is
/// written at, and attends up to, index `first_key_idx` of the cache.
struct SequenceRows {
  KvView kv;
  int num_rows = 0;
  int first_key_idx = 0;
};

struct AttentionArgs {
  int num_heads = 0;
  int num_kv_heads = 0;
  int head_dim = 0; ///< A multiple of 16, at most kMaxHeadDim.
  float scale = 1;
  std::optional<int> window; ///< A row sees this many keys, itself included.
  Rows queries;              ///< Row t: heads side by side.
  Rows keys;                 ///< New ones, as they come from the projection.
  Rows values;
  Float kv_type = Float::f32; ///< Of the cache.
  std::optional<RmsNorm> q_norm;
  std::optional<RmsNorm> k_norm;
  /// Angles are position * inv_freq; cosines and sines times `rope_scale`.
  const float* inv_freq = nullptr; ///< [rotary_dim / 2], null without rope.
  int rotary_dim = 0;
  float rope_scale = 1;
  const std::int32_t* positions = nullptr; ///< One a row.
  std::vector<SequenceRows> sequences;     ///< In the order of the rows.
};

/// Appends the new keys and values to the caches, then attends:
/// out row t: num_heads * head_dim elements.
void attention(
    const Context& context,
    const AttentionArgs& args,
    const MutableRows& out);

} // namespace qwen3_mlx::cpu
