// SPDX-License-Identifier: MIT
// The merges of a byte-level BPE model: which two tokens become which third,
// and in what order.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "tokenizer/hash.h"
#include "tokenizer/vocabulary.h"

namespace qwen3_mlx {

inline constexpr std::uint32_t no_rank = UINT32_MAX;

struct Merge {
  std::uint32_t rank = no_rank; ///< Lower ranks are applied first.
  TokenId id = 0;
};

/// Which two tokens become which third; Vocabulary::not_found where a string is
/// no token.
struct MergeIds {
  TokenId left = Vocabulary::not_found;
  TokenId right = Vocabulary::not_found;
  TokenId merged = Vocabulary::not_found;

  bool is_fault() const {
    return left == Vocabulary::not_found || right == Vocabulary::not_found ||
        merged == Vocabulary::not_found;
  }
};

class MergeTable {
 public:
  explicit MergeTable(std::size_t num_merges = 0)
      : slots_(std::bit_ceil(num_merges * 3 / 2 + 16)),
        filter_(slots_.size() / 8),
        shift_(64 - std::countr_zero(slots_.size())) {}

  /// Adds merges of the ranks from `rank` on; a later one for the same pair
  /// replaces the earlier. At most num_merges different pairs in all.
  void add(std::span<const MergeIds> merges, std::size_t rank) {
    // All slots are asked for before the first is written.
    for (const MergeIds& merge : merges) {
      const auto hash = hash_of(pair(merge.left, merge.right));
      __builtin_prefetch(&filter_[word(hash)]);
      __builtin_prefetch(&slots_[hash >> shift_]);
    }
    for (const MergeIds& merge : merges) {
      const auto key = pair(merge.left, merge.right);
      const auto hash = hash_of(key);
      filter_[word(hash)] |= bit(hash);
      slots_[find(key, hash)] = {
          key, {static_cast<std::uint32_t>(rank++), merge.merged}};
    }
  }

  /// The merge of two neighbours; rank no_rank when there is none.
  Merge operator()(TokenId left, TokenId right) const {
    const auto key = pair(left, right);
    const auto hash = hash_of(key);
    // Most neighbours have no merge. Eight bits a slot that fit the second
    // cache answer that without touching the table.
    if ((filter_[word(hash)] & bit(hash)) == 0) {
      return {};
    }
    const Slot& slot = slots_[find(key, hash)];
    return slot.key == key ? slot.merge : Merge{};
  }

 private:
  struct Slot {
    std::uint64_t key = UINT64_MAX;
    Merge merge;
  };

  static std::uint64_t pair(TokenId left, TokenId right) {
    return std::uint64_t{left} << 32 | right;
  }
  static std::uint64_t hash_of(std::uint64_t key) {
    return hash_words(key, key);
  }
  std::size_t word(std::uint64_t hash) const {
    return hash & (filter_.size() - 1);
  }
  static std::uint64_t bit(std::uint64_t hash) {
    return std::uint64_t{1} << (hash >> 24 & 63);
  }
  std::size_t find(std::uint64_t key, std::uint64_t hash) const {
    auto idx = hash >> shift_;
    while (slots_[idx].key != key && slots_[idx].key != UINT64_MAX) {
      idx = (idx + 1) & (slots_.size() - 1);
    }
    return idx;
  }

  std::vector<Slot> slots_;
  std::vector<std::uint64_t> filter_;
  int shift_;
};

} // namespace qwen3_mlx
