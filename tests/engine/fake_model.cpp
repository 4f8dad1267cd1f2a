// SPDX-License-Identifier: MIT
#include "engine/fake_model.h"

#include <algorithm>

#include <gtest/gtest.h>

namespace qwen3_mlx::engine::testing {
namespace {

std::uint64_t mix(std::uint64_t state, std::uint64_t token) {
  state = (state ^ (token + 1)) * 0xbf58476d1ce4e5b9u;
  return state ^ (state >> 29);
}

std::uint32_t next_token(std::uint64_t state) {
  return static_cast<std::uint32_t>((state >> 7) % 40);
}

} // namespace

FakeModel::FakeModel(int num_blocks, int block_size)
    : block_size_(block_size),
      slots_(static_cast<std::size_t>(num_blocks * block_size), 0) {}

std::uint64_t& FakeModel::slot(const Sequence& sequence, int position) {
  const auto block = sequence.table.blocks.at(
      static_cast<std::size_t>(position / block_size_));
  return slots_.at(
      static_cast<std::size_t>(block * block_size_ + position % block_size_));
}

std::vector<std::pair<SequenceId, std::uint32_t>>
FakeModel::run(const StepPlan& plan, const BlockManager& blocks) {
  for (const auto& [from, to] : plan.copies) {
    std::copy_n(
        slots_.begin() + from * block_size_,
        block_size_,
        slots_.begin() + to * block_size_);
  }
  std::vector<std::pair<SequenceId, std::uint32_t>> out;
  for (const auto& chunk : plan.chunks) {
    const auto& sequence = *chunk.sequence;
    std::uint64_t state = 0;
    for (int position = 0; position < chunk.begin; ++position) {
      state = mix(state, sequence.tokens[static_cast<std::size_t>(position)]);
      EXPECT_EQ(slot(sequence, position), state)
          << "sequence " << sequence.id << " reads position " << position;
    }
    for (int i = 0; i < chunk.length; ++i) {
      const int position = chunk.begin + i;
      state = mix(state, sequence.tokens[static_cast<std::size_t>(position)]);
      const auto block = sequence.table.blocks.at(
          static_cast<std::size_t>(position / block_size_));
      EXPECT_EQ(blocks.num_references(block), 1)
          << "sequence " << sequence.id << " writes to a shared block";
      slot(sequence, position) = state;
    }
    if (chunk.wants_token()) {
      out.emplace_back(sequence.id, next_token(state));
    }
  }
  return out;
}

Tokens FakeModel::solo(Tokens prompt, int max_tokens) {
  std::uint64_t state = 0;
  for (const auto token : prompt) {
    state = mix(state, token);
  }
  Tokens text;
  while (static_cast<int>(text.size()) < max_tokens) {
    text.push_back(next_token(state));
    if (text.back() == eos) {
      break;
    }
    state = mix(state, text.back());
  }
  return text;
}

} // namespace qwen3_mlx::engine::testing
