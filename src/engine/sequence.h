// SPDX-License-Identifier: MIT
// One text under way: what the scheduler knows of it. Plain data.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace qwen3_mlx::engine {

using Clock = std::chrono::steady_clock;
using TimePoint = Clock::time_point;
using SequenceId = std::uint64_t;
using BlockId = std::int32_t;

/// Where the keys and values of a sequence lie: position p is in slot
/// p % block_size of blocks[p / block_size].
struct BlockTable {
  std::vector<BlockId> blocks;
  /// The first blocks that other sequences can find, and the node of the
  /// prefix tree that the last of them stands for.
  int num_published = 0;
  std::uint64_t tail_node = 0;
};

/// What a sequence begins with.
struct NewSequence {
  SequenceId id = 0;
  std::vector<std::uint32_t> prompt;
  int max_tokens = 0;    ///< Most tokens to generate.
  int priority = 0;      ///< Lower ones are served first.
  std::string user = {}; ///< Users share the engine evenly.
  TimePoint arrival = {};
  /// Has the same prompt: this one takes its keys and values once they are
  /// computed, instead of computing them anew.
  std::optional<SequenceId> parent = std::nullopt;
};

struct Sequence {
  SequenceId id = 0;
  std::vector<std::uint32_t> tokens; ///< The prompt, then what was generated.
  int num_prompt = 0;
  int num_computed = 0; ///< Tokens whose keys and values are in the blocks.
  int num_cached = 0;   ///< Prompt tokens found in the prefix cache at first.
  int max_tokens = 0;
  int priority = 0;
  std::string user;
  TimePoint arrival;
  std::optional<SequenceId> parent;
  bool is_running = false; ///< Else it waits, with no blocks.
  bool was_admitted = false;
  int num_preemptions = 0;
  BlockTable table;

  int size() const {
    return static_cast<int>(tokens.size());
  }
  int num_generated() const {
    return size() - num_prompt;
  }
  int num_to_compute() const {
    return size() - num_computed;
  }
};

} // namespace qwen3_mlx::engine
