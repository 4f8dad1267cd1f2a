// SPDX-License-Identifier: MIT
// Attention of a whole step as one MLX primitive on the CPU.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "kernels/cpu/kv_blocks.h"
#include "kernels/cpu/tiles.h"

namespace qwen3_mlx::cpu {

/// What attention does to heads before they meet.
struct AttentionForm {
  int n_heads;
  int n_kv_heads;
  int head_dim;
  float scale;
  std::optional<int> window;
  const mx::array* q_norm = nullptr; ///< [head_dim]
  const mx::array* k_norm = nullptr;
  float norm_eps = 0;
};

/// The new positions of some sequences of one length.
struct AttentionSegment {
  KvAppend append;
  int length; ///< Of each of the sequences that append.tables lists.
  /// [rotary_dim / 2]: angle = position / period.
  mx::array periods;
};

/// Whether attention_op takes heads of that size.
bool supports_head_dim(int head_dim);

/// qkv [T, (n_heads + 2 * n_kv_heads) * head_dim], neither normed nor rotated,
/// the rows of the segments after each other -> [T, n_heads * head_dim]. Writes
/// to the blocks of the segments.
mx::array attention_op(
    const mx::array& qkv,
    const AttentionForm& form,
    std::vector<AttentionSegment> segments,
    const std::shared_ptr<Runtime>& runtime);

} // namespace qwen3_mlx::cpu
