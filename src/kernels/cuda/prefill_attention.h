// SPDX-License-Identifier: MIT
// Attention of many new positions of many sequences.
#pragma once

#include <span>

#include "kernels/cuda/kernels.h"

namespace qwen3_mlx::cuda {

/// New positions of one sequence: rows [first_row, first_row + length) of a
/// step.
struct PrefillSequence {
  void* keys; ///< [num_kv_heads, capacity, head_dim], of offset + length.
  void* values;
  int capacity;
  int offset; ///< Positions held before.
  int first_row;
  int length;
};

struct PrefillAttentionArgs {
  const void* qkv = nullptr; ///< [n, (num_heads + 2 num_kv_heads) head_dim]
  void* queries = nullptr; ///< [n, num_heads * head_dim], for the time between.
  void* out = nullptr;     ///< [n, num_heads * head_dim]
  Float type = Float::bf16; ///< bf16 or f16; of keys and values too.
  int num_heads = 1;
  int num_kv_heads = 1;
  int head_dim = 128;
  float scale = 1;
  int window = 0; ///< 0: none.
  const void* q_norm = nullptr;
  const void* k_norm = nullptr;
  float norm_eps = 0;
  const float* periods = nullptr; ///< [head_dim / 2]
};

bool supports_prefill(
    const Launcher& launcher,
    Float type,
    int num_heads,
    int num_kv_heads,
    int head_dim);

/// Norms and rotates the queries and keys of the new positions, appends keys
/// and values, and attends. What a position gets does not depend on how its
/// sequence was cut, nor on other sequences.
void prefill_attention(
    const Launcher& launcher,
    const PrefillAttentionArgs& args,
    std::span<const PrefillSequence> sequences);

/// The two halves of it: what comes between may change what was appended.
void append_positions(
    const Launcher& launcher,
    const PrefillAttentionArgs& args,
    std::span<const PrefillSequence> sequences);
void attend_positions(
    const Launcher& launcher,
    const PrefillAttentionArgs& args,
    std::span<const PrefillSequence> sequences);

} // namespace qwen3_mlx::cuda
