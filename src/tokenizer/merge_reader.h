// SPDX-License-Identifier: MIT
// Files give a merge as two strings; this finds the three ids of each.
#pragma once

#include <array>
#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tokenizer/merge_table.h"
#include "tokenizer/vocabulary.h"

namespace qwen3_mlx {

using MergeStrings = std::pair<std::string_view, std::string_view>;

/// Merges in bytes: the sides of all beside each other.
class SpelledMerges {
 public:
  /// Adds a merge. False, and nothing of use is added, when a side is not
  /// spelled in the byte alphabet.
  bool add(const MergeStrings& merge);
  void clear();

  std::size_t size() const {
    return ends_.size() / 2;
  }
  std::string_view left(std::size_t idx) const {
    return between(2 * idx, 2 * idx + 1);
  }
  std::string_view right(std::size_t idx) const {
    return between(2 * idx + 1, 2 * idx + 2);
  }
  /// Both sides, which is the token that the merge makes.
  std::string_view merged(std::size_t idx) const {
    return between(2 * idx, 2 * idx + 2);
  }

 private:
  std::string_view between(std::size_t first, std::size_t last) const {
    return std::string_view(bytes_).substr(
        ends_[first], ends_[last] - ends_[first]);
  }

  std::string bytes_;
  std::vector<std::size_t> ends_{0}; // Of both sides of each, behind a start.
};

/// Finds the ids of merges, a batch at a time, so that the misses of their
/// look-ups overlap.
class MergeBatchReader {
 public:
  static constexpr std::size_t max_merges = Vocabulary::batch_size;

  /// `vocabulary` must have its index and outlive this.
  explicit MergeBatchReader(const Vocabulary& vocabulary)
      : vocabulary_(vocabulary) {}

  /// The ids of up to max_merges merges, in order, from `first` on; valid until
  /// the next call.
  std::span<const MergeIds>
  read(const SpelledMerges& merges, std::size_t first, std::size_t count);

  /// The same by strings, which need not be spelled in the byte alphabet.
  std::span<const MergeIds> read(std::span<const MergeStrings> merges);

 private:
  TokenId find_merged(std::string_view bytes);

  const Vocabulary& vocabulary_;
  SpelledMerges spelled_;
  std::array<std::string_view, max_merges> left_;
  std::array<std::string_view, max_merges> right_;
  std::array<TokenId, max_merges> left_ids_{};
  std::array<TokenId, max_merges> right_ids_{};
  std::array<MergeIds, max_merges> ids_{};
  TokenId expected_ = 0; // The id that the next merge probably makes.
};

/// A merge whose left or right side, or whose result, is no token.
struct MergeFault {
  std::size_t idx;
  std::string token;
};

/// The table of `merges`, ranked in their order, or the first fault.
struct MergeResult {
  MergeTable table;
  std::optional<MergeFault> fault;
};

/// Finds all ids, on all cores.
MergeResult
read_merges(const Vocabulary& vocabulary, std::span<const MergeStrings> merges);

} // namespace qwen3_mlx
