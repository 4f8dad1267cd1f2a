// SPDX-License-Identifier: MIT
// How much memory serving may take, and what of it the key/value blocks get.
#pragma once

#include <cstddef>
#include <optional>

#include "engine/kv_storage.h"
#include "qwen3_mlx/model.h"

namespace qwen3_mlx::engine {

struct MemoryOptions {
  /// For weights, caches and workspace together. Absent: weights, and this
  /// share of what is free once they are loaded.
  std::optional<std::size_t> max_bytes;
  double share_of_free = 0.8;
  std::optional<std::size_t> max_cache_bytes; ///< Of blocks kept unused.
};

struct MemoryPlan {
  std::size_t weights = 0;
  std::size_t workspace = 0; ///< Of one step.
  std::size_t cache = 0;     ///< Of all blocks.
  int num_blocks = 0;
  int max_cached_blocks = 0;
};

struct StepLimits {
  int max_running = 0;
  int max_step_tokens = 0;
  int max_context = 0;
  bool goes_ahead = false; ///< A step begins while another still runs.
};

/// Memory that the system could give this process now; of the device where the
/// model lies, or of the host, within a limit set by its container.
std::size_t free_memory(const Model& model);

/// Blocks for all that may run at once, or as many as fit. Throws Error with
/// the numbers when not even one sequence of one block does.
MemoryPlan plan_memory(
    const Model& model,
    const KvLayout& layout,
    const StepLimits& limits,
    const MemoryOptions& options);

} // namespace qwen3_mlx::engine
