// SPDX-License-Identifier: MIT
// What one forward pass takes: new tokens of several sequences, of unequal
// lengths, prefill and decode mixed, without padding.
#pragma once

#include <optional>
#include <span>
#include <vector>

#include "mlx/array.h"
#include "qwen3_mlx/kv_cache.h"

namespace qwen3_mlx {
namespace mx = mlx::core;

/// The new tokens of one sequence, or of `batch` sequences in step.
struct Segment {
  std::span<KVCache> cache; ///< One per layer.
  int length = 0;           ///< New tokens of each sequence.
  int batch = 1; ///< Sequences that share `cache` and lie after each other.
  /// Length that the whole prompt will have, when this is a chunk of it; only
  /// rope type "dynamic" asks. Absent: offset + length.
  std::optional<int> prompt_length;

  int num_tokens() const {
    return batch * length;
  }
};

struct StepInput {
  mx::array tokens; ///< [T] uint32 or int32, the segments after each other.
  std::vector<Segment> segments;
  /// Rows of `tokens` whose logits are wanted, ascending; absent for all.
  std::optional<std::vector<int>> logits_rows;
};

} // namespace qwen3_mlx
