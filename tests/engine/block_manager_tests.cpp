// SPDX-License-Identifier: MIT
#include "engine/block_manager.h"

#include <numeric>

#include <gmock/gmock.h>

#include "qwen3_mlx/error.h"

namespace qwen3_mlx::engine {
namespace {

using Tokens = std::vector<std::uint32_t>;

Tokens counting(int n, std::uint32_t first = 1) {
  Tokens tokens(static_cast<std::size_t>(n));
  std::iota(tokens.begin(), tokens.end(), first);
  return tokens;
}

BlockOptions options(int num_blocks, int max_cached = 100) {
  return {
      .num_blocks = num_blocks,
      .block_size = 4,
      .max_cached_blocks = max_cached};
}

// A finished text of `tokens` leaves its full blocks behind.
void leave(BlockManager& blocks, const Tokens& tokens) {
  BlockTable table;
  blocks.take_prefix(table, tokens);
  const int needed = blocks.blocks_for(static_cast<int>(tokens.size()));
  while (static_cast<int>(table.blocks.size()) < needed) {
    ASSERT_TRUE(blocks.grow(table));
  }
  blocks.publish(table, tokens, static_cast<int>(tokens.size()));
  blocks.release(table);
}

TEST(BlockManager, FindsTheLongestKnownBeginningInWholeBlocks) {
  BlockManager blocks(options(8));
  leave(blocks, counting(11));
  EXPECT_EQ(blocks.find_prefix(counting(11)).num_tokens, 8);
  EXPECT_EQ(blocks.find_prefix(counting(7)).num_tokens, 4);
  EXPECT_EQ(blocks.find_prefix(counting(3)).num_tokens, 0);
  EXPECT_EQ(blocks.find_prefix(counting(8, 2)).num_tokens, 0);
}

TEST(BlockManager, TheSameBlockAfterAnotherBeginningIsAnother) {
  BlockManager blocks(options(8));
  leave(blocks, {1, 1, 1, 1, 9, 9, 9, 9});
  EXPECT_EQ(blocks.find_prefix(Tokens{2, 2, 2, 2, 9, 9, 9, 9}).num_tokens, 0);
  EXPECT_EQ(blocks.find_prefix(Tokens{9, 9, 9, 9}).num_tokens, 0);
}

TEST(BlockManager, WhatIsUnusedForLongestGoesFirstAndItsEndFirst) {
  BlockManager blocks(options(4));
  leave(blocks, counting(8));
  leave(blocks, counting(8, 100));
  leave(blocks, counting(4)); // used again: now the newest
  BlockTable table;
  ASSERT_TRUE(blocks.grow(table));
  EXPECT_EQ(blocks.find_prefix(counting(8)).num_tokens, 4);
  EXPECT_EQ(blocks.find_prefix(counting(8, 100)).num_tokens, 8);
  ASSERT_TRUE(blocks.grow(table));
  EXPECT_EQ(blocks.find_prefix(counting(8, 100)).num_tokens, 4);
}

TEST(BlockManager, KeepsNoMoreThanTheBudget) {
  BlockManager blocks(options(8, /* max_cached */ 2));
  leave(blocks, counting(16));
  EXPECT_EQ(blocks.num_cached(), 2);
  EXPECT_EQ(blocks.num_available(), 8);
  EXPECT_EQ(blocks.find_prefix(counting(16)).num_tokens, 8);
}

TEST(BlockManager, HeldBlocksAreNeverTaken) {
  BlockManager blocks(options(2));
  leave(blocks, counting(8));
  BlockTable table;
  EXPECT_EQ(blocks.take_prefix(table, counting(8)), 8);
  BlockTable other;
  EXPECT_FALSE(blocks.grow(other));
  EXPECT_EQ(blocks.num_available(), 0);
  blocks.release(table);
  EXPECT_TRUE(blocks.grow(other));
}

TEST(BlockManager, WritingToASharedBlockCopiesIt) {
  BlockManager blocks(options(4));
  BlockTable parent;
  ASSERT_TRUE(blocks.grow(parent));
  BlockTable child;
  blocks.share(child, parent, 3);
  const auto owned = blocks.make_own(child, 0);
  ASSERT_TRUE(owned.copy.has_value());
  EXPECT_EQ(owned.copy->from, parent.blocks[0]);
  EXPECT_EQ(owned.copy->to, child.blocks[0]);
  EXPECT_NE(parent.blocks[0], child.blocks[0]);
  EXPECT_FALSE(blocks.make_own(parent, 0).copy.has_value());
}

TEST(BlockManager, AFullPoolWithNobodyElseWritesInPlace) {
  BlockManager blocks(options(1));
  leave(blocks, counting(4));
  BlockTable table;
  blocks.take_prefix(table, counting(4));
  const auto owned = blocks.make_own(table, 0);
  EXPECT_FALSE(owned.failed);
  EXPECT_FALSE(owned.copy.has_value());
  EXPECT_EQ(blocks.find_prefix(counting(4)).num_tokens, 0);
  blocks.publish(table, counting(4), 4);
  EXPECT_EQ(blocks.find_prefix(counting(4)).num_tokens, 4);
}

TEST(BlockManager, WithoutAPrefixCacheNothingIsFound) {
  auto none = options(4);
  none.prefix_cache = false;
  BlockManager blocks(none);
  leave(blocks, counting(8));
  EXPECT_EQ(blocks.find_prefix(counting(8)).num_tokens, 0);
  EXPECT_EQ(blocks.num_cached(), 0);
}

TEST(BlockManager, NeedsSizes) {
  EXPECT_THROW(BlockManager(options(0)), InvalidArgument);
}

} // namespace
} // namespace qwen3_mlx::engine
