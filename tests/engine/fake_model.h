// SPDX-License-Identifier: MIT
// A model without arrays, for tests of the scheduler: what a position "holds"
// is a number that stands for every token up to it, kept in the slots of a
// block pool as a real model keeps keys and values. So a slot that was shared,
// overwritten or copied wrongly changes the text.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/scheduler.h"

namespace qwen3_mlx::engine::testing {

using Tokens = std::vector<std::uint32_t>;

class FakeModel {
 public:
  static constexpr std::uint32_t eos = 0;

  FakeModel(int num_blocks, int block_size);

  /// Runs a step; returns the next token of each chunk that wants one, in
  /// order. Fails the running test when a chunk reads what is not its text, or
  /// writes to a block that is not its own.
  std::vector<std::pair<SequenceId, std::uint32_t>>
  run(const StepPlan& plan, const BlockManager& blocks);

  /// What a text of its own would say: the tokens generated after `prompt`.
  static Tokens solo(Tokens prompt, int max_tokens);

 private:
  std::uint64_t& slot(const Sequence& sequence, int position);

  int block_size_;
  std::vector<std::uint64_t> slots_;
};

} // namespace qwen3_mlx::engine::testing
