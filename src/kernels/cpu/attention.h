// SPDX-License-Identifier: MIT
// Attention with what surrounds it: q/k norm, rotation, append to the cache.
#pragma once

#include <optional>
#include <vector>

#include "kernels/cpu/context.h"

namespace qwen3_mlx::cpu {

/// Consecutive rows of a step that belong to one sequence: those of positions
/// [first_position, first_position + num_rows). A row sees the positions up to
/// its own.
struct SequenceRows {
  KvShape kv; ///< Heads are those of AttentionArgs.
  /// Position p is in blocks[p / kKvBlockSize], for all that rows see or write.
  const std::byte* const* blocks = nullptr;
  /// But those below head_length are in head_blocks, of shape head_kv.
  KvShape head_kv;
  const std::byte* const* head_blocks = nullptr;
  int head_length = 0;
  int num_rows = 0;
  int first_position = 0;
  /// Rotation: angles are position * inv_freq[idx]; [rotary_dim / 2], null
  /// without.
  const float* inv_freq = nullptr;
  /// A row sees this many positions, itself included...
  std::optional<int> window;
  /// ...and of them only the first `keep` and the `recent` latest.
  int keep = 0;
  std::optional<int> recent;
};

struct AttentionArgs {
  int num_heads = 0;
  int num_kv_heads = 0;
  int head_dim = 0; ///< A multiple of 16, at most kMaxHeadDim.
  float scale = 1;
  Rows queries; ///< Row t: heads side by side.
  Rows keys;    ///< New ones, as they come from the projection.
  Rows values;
  std::optional<RmsNorm> q_norm;
  std::optional<RmsNorm> k_norm;
  int rotary_dim = 0;
  std::vector<SequenceRows> sequences; ///< In the order of the rows.
};

/// Writes the new keys and values to the blocks, then attends:
/// out row t: num_heads * head_dim elements. The outcome of a row depends
/// neither on the others nor on the number of threads.
void attention(
    const Context& context,
    const AttentionArgs& args,
    const MutableRows& out);

} // namespace qwen3_mlx::cpu
