// SPDX-License-Identifier: MIT
#include "engine/prefix_file.h"

#include <cstring>
#include <fstream>
#include <map>
#include <numeric>

#include <gtest/gtest.h>

#include "base/file.h"
#include "qwen3_mlx/error.h"
#include "testing/temp_dir.h"

namespace qwen3_mlx::engine {
namespace {

constexpr int block_size = 4;

// Blocks of eight bytes without a model.
class Blocks final : public KvStorage {
 public:
  bool shares_blocks() const override {
    return true;
  }
  void copy(std::span<const BlockCopy>) override {}
  std::span<KVCache> caches_for(const Chunk&) override {
    return {};
  }
  bool can_resume(const Chunk&) const override {
    return true;
  }
  bool can_step_back() const override {
    return false;
  }
  bool logits_cover_writes() const override {
    return true;
  }
  void drop(SequenceId) override {}
  std::size_t block_bytes() const override {
    return sizeof(std::uint64_t);
  }
  void read_block(BlockId block, std::byte* to) const override {
    std::memcpy(to, &contents.at(block), sizeof(std::uint64_t));
  }
  void write_block(BlockId block, const std::byte* from) override {
    std::memcpy(&contents[block], from, sizeof(std::uint64_t));
  }

  std::map<BlockId, std::uint64_t> contents;
};

using Tokens = std::vector<std::uint32_t>;

Tokens text(std::uint32_t first, int num_blocks) {
  Tokens tokens(static_cast<std::size_t>(num_blocks * block_size));
  std::iota(tokens.begin(), tokens.end(), first);
  return tokens;
}

struct Cache {
  BlockManager manager;
  Blocks storage;

  explicit Cache(int num_blocks, int max_cached = 1000)
      : manager(
            {.num_blocks = num_blocks,
             .block_size = block_size,
             .max_cached_blocks = max_cached}) {}

  // Computes a text: a block holds the sum of the tokens up to its end.
  void add(const Tokens& tokens) {
    BlockTable table;
    const int num_known = manager.take_prefix(table, tokens);
    std::uint64_t sum = 0;
    for (std::size_t idx = 0; idx < tokens.size() / block_size; ++idx) {
      for (int i = 0; i < block_size; ++i) {
        sum += tokens[idx * block_size + static_cast<std::size_t>(i)];
      }
      if (static_cast<int>(idx) * block_size >= num_known) {
        ASSERT_TRUE(manager.grow(table));
        storage.contents[table.blocks.back()] = sum;
      }
    }
    manager.publish(table, tokens, static_cast<int>(tokens.size()));
    manager.release(table);
  }

  // Tokens of `tokens` that are found, their blocks' contents checked.
  int find(const Tokens& tokens) {
    BlockTable table;
    const int num_known = manager.take_prefix(table, tokens);
    std::uint64_t sum = 0;
    for (int at = 0; at < num_known; ++at) {
      sum += tokens[static_cast<std::size_t>(at)];
      if ((at + 1) % block_size == 0) {
        EXPECT_EQ(
            storage.contents.at(
                table.blocks[static_cast<std::size_t>(at / block_size)]),
            sum);
      }
    }
    manager.release(table);
    return num_known;
  }
};

class PrefixFile : public ::testing::Test {
 protected:
  void SetUp() override {
    cache_.add(text(1, 3));
    cache_.add(text(100, 2));
    auto branch = text(1, 2);
    branch.insert(branch.end(), {7, 7, 7, 7});
    branch_ = branch;
    cache_.add(branch_);
  }
  int save() {
    return save_prefixes(path_, "this", cache_.manager, cache_.storage);
  }
  int load(Cache& into, const std::string& identity = "this") {
    return load_prefixes(path_, identity, into.manager, into.storage);
  }

  testing::TempDir dir_;
  std::filesystem::path path_ = dir_.path() / "prefixes";
  Cache cache_{20};
  Tokens branch_;
};

TEST_F(PrefixFile, WhatWasKeptIsFound) {
  EXPECT_EQ(save(), 6);
  Cache other(20);
  EXPECT_EQ(load(other), 6);
  EXPECT_EQ(other.find(text(1, 3)), 12);
  EXPECT_EQ(other.find(text(100, 2)), 8);
  EXPECT_EQ(other.find(branch_), 12);
  EXPECT_EQ(other.manager.num_available(), 20);
  EXPECT_EQ(other.manager.num_cached(), 6);
}

TEST_F(PrefixFile, AsManyAsThereIsRoomFor) {
  save();
  Cache few(20, 4);
  EXPECT_EQ(load(few), 4);
  EXPECT_EQ(few.find(branch_), 12); // what was used last
  Cache small(2);
  EXPECT_EQ(load(small), 2);
  EXPECT_EQ(small.find(branch_), 8);
  EXPECT_EQ(small.manager.num_available(), 2);
}

TEST_F(PrefixFile, AnotherIdentityIsRefused) {
  save();
  Cache other(20);
  EXPECT_THROW(load(other, "that"), FileError);
  EXPECT_EQ(other.manager.num_cached(), 0);
}

TEST_F(PrefixFile, DamageIsRefusedWholly) {
  save();
  const auto whole = read_file(path_);
  const auto try_with = [&](const std::string& bytes) {
    std::ofstream(path_, std::ios::binary) << bytes;
    Cache other(20);
    EXPECT_THROW(load(other), FileError);
    EXPECT_EQ(other.manager.num_available(), 20);
    EXPECT_EQ(other.manager.num_cached(), 0);
  };
  for (std::size_t at = 0; at < whole.size(); ++at) {
    auto bytes = whole;
    bytes[at] = static_cast<char>(bytes[at] ^ 0x10);
    try_with(bytes);
    try_with(whole.substr(0, at));
  }
}

TEST_F(PrefixFile, AnEmptyCacheIsAFileToo) {
  Cache empty(20);
  EXPECT_EQ(save_prefixes(path_, "this", empty.manager, empty.storage), 0);
  EXPECT_EQ(load(empty), 0);
}

} // namespace
} // namespace qwen3_mlx::engine
