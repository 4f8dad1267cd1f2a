// SPDX-License-Identifier: MIT
// Which sequence holds which block of the key/value pool, and which blocks hold
// a known beginning of a text that others may share. Numbers only, no arrays.
//
// Full blocks form a prefix tree: a node is a parent node and the tokens of one
// block, compared in full, so that no hash collision can hand one user's keys
// and values to another. A block that nobody holds stays findable until its
// place is needed; the one unused for longest goes first.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

#include "engine/sequence.h"

namespace qwen3_mlx::engine {

struct BlockOptions {
  int num_blocks = 0;
  int block_size = 0; ///< Positions of one block.
  bool prefix_cache = true;
  /// Most blocks kept for later requests while nobody holds them.
  int max_cached_blocks = 0;
};

/// The contents of block `from` must be in `to` before the step writes.
struct BlockCopy {
  BlockId from;
  BlockId to;
  bool operator==(const BlockCopy&) const = default;
};

/// A block that can be found: what follows another one, by tokens.
struct FoundPrefix {
  BlockId block;
  std::int32_t parent; ///< Index of another one; its own for a text's first.
  std::vector<std::uint32_t> tokens;
};

class BlockManager {
 public:
  /// Throws InvalidArgument unless both sizes are positive.
  explicit BlockManager(const BlockOptions& options);

  int block_size() const {
    return options_.block_size;
  }
  int num_blocks() const {
    return options_.num_blocks;
  }
  int blocks_for(int num_tokens) const {
    return (num_tokens + options_.block_size - 1) / options_.block_size;
  }
  /// Blocks that can be had: unused ones and those kept only to be found.
  int num_available() const {
    return static_cast<int>(free_.size()) + lru_.size;
  }
  int num_cached() const {
    return lru_.size;
  }
  int num_references(BlockId block) const {
    return at(block).num_references;
  }

  /// Gives an empty `table` the blocks of the longest known beginning of
  /// `tokens`; returns how many tokens they hold.
  int take_prefix(BlockTable& table, std::span<const std::uint32_t> tokens);
  /// How many tokens take_prefix would find, and how many of their blocks
  /// nobody holds (so that taking them makes fewer available).
  struct Prefix {
    int num_tokens = 0;
    int num_unheld_blocks = 0;
  };
  Prefix find_prefix(std::span<const std::uint32_t> tokens) const;

  /// Makes `table` hold a further block; false when none is available.
  bool grow(BlockTable& table);
  /// An empty `table` holds the blocks of `parent` with it.
  void share(BlockTable& table, const BlockTable& parent, int num_tokens);
  /// Makes block `idx` of `table`, its last or a later one than it published,
  /// its own before it is written: one that others hold or may find is copied.
  struct Owned {
    bool failed = false; ///< No block was available; nothing was changed.
    std::optional<BlockCopy> copy = std::nullopt; ///< Due before the step.
  };
  Owned make_own(BlockTable& table, std::size_t idx);

  /// Lets others find the full blocks among the first `num_computed` tokens.
  void publish(
      BlockTable& table,
      std::span<const std::uint32_t> tokens,
      int num_computed);
  /// Gives all blocks of `table` back and empties it.
  void release(BlockTable& table);
  /// Forgets every block that nobody holds.
  void clear_cache();

  /// All blocks that can be found, parents before their children, and of what
  /// does not depend on each other the latest used first.
  std::vector<FoundPrefix> findable() const;
  /// A block that nobody holds or finds, for the caller to fill; nothing when
  /// there is none, or as many are cached as may be.
  std::optional<BlockId> reserve_unused();
  void give_back(BlockId block);
  /// Lets filled blocks be found, in the order of findable().
  void adopt(std::span<const FoundPrefix> prefixes);

 private:
  struct Key {
    std::uint64_t parent;
    std::vector<std::uint32_t> tokens;
    bool operator==(const Key&) const = default;
  };
  struct KeyHash {
    std::size_t operator()(const Key& key) const noexcept;
  };
  using Tree = std::unordered_map<Key, BlockId, KeyHash>;

  struct Block {
    int num_references = 0;
    std::uint64_t node = 0;   // 0: not findable
    const Key* key = nullptr; // its key in tree_, when findable
    BlockId newer = no_block; // neighbours in the order of last use
    BlockId older = no_block;
  };
  // Findable blocks that nobody holds, by last use.
  struct Lru {
    BlockId oldest = no_block;
    BlockId newest = no_block;
    int size = 0;
  };

  static constexpr BlockId no_block = -1;

  Block& at(BlockId block) {
    return blocks_[static_cast<std::size_t>(block)];
  }
  const Block& at(BlockId block) const {
    return blocks_[static_cast<std::size_t>(block)];
  }
  template <class Visit>
  void walk(std::span<const std::uint32_t> tokens, Visit visit) const;

  std::optional<BlockId> take_block();
  void hold(BlockId block);
  void let_go(BlockId block);
  void forget(BlockId block);
  void unpublish(BlockId block);
  void push_newest(BlockId block);
  void unlink(BlockId block);

  BlockOptions options_;
  std::vector<Block> blocks_;
  std::vector<BlockId> free_;
  Lru lru_;
  Tree tree_;
  std::uint64_t last_node_ = 0;
};

} // namespace qwen3_mlx::engine
