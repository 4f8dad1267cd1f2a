// SPDX-License-Identifier: MIT
#include "tokenizer/merge_reader.h"

#include <algorithm>
#include <array>

#include "tokenizer/byte_level.h"

namespace qwen3_mlx {
namespace {

constexpr std::size_t batch = Vocabulary::batch_size;

/// Finds the ids of merges, a batch at a time, so that the misses of their
/// look-ups overlap.
class BatchReader {
 public:
  BatchReader(const Vocabulary& vocabulary, MergeTable& table)
      : vocabulary_(vocabulary), table_(table) {}

  std::optional<MergeFault>
  read(std::span<const MergeStrings> merges, std::size_t first_rank) {
    spell(merges);
    vocabulary_.find_bytes(std::span(left_).first(merges.size()), left_ids_);
    vocabulary_.find_bytes(std::span(right_).first(merges.size()), right_ids_);
    for (std::size_t idx = 0; idx < merges.size(); ++idx) {
      merged_ids_[idx] = find_merged(idx, merges[idx]);
      table_.prefetch(left_ids_[idx], right_ids_[idx]);
    }
    for (std::size_t idx = 0; idx < merges.size(); ++idx) {
      const auto& [left, right] = merges[idx];
      const auto rank = first_rank + idx;
      if (left_ids_[idx] == Vocabulary::not_found) {
        return MergeFault{rank, std::string(left)};
      }
      if (right_ids_[idx] == Vocabulary::not_found) {
        return MergeFault{rank, std::string(right)};
      }
      if (merged_ids_[idx] == Vocabulary::not_found) {
        return MergeFault{rank, std::string(left) + std::string(right)};
      }
      table_.add(
          left_ids_[idx],
          right_ids_[idx],
          {static_cast<std::uint32_t>(rank), merged_ids_[idx]});
    }
    return std::nullopt;
  }

 private:
  /// Spells both sides of each merge beside each other in bytes_.
  void spell(std::span<const MergeStrings> merges) {
    std::array<std::size_t, 2 * batch + 1> ends{};
    bytes_.clear();
    for (std::size_t idx = 0; idx < merges.size(); ++idx) {
      const auto& [left, right] = merges[idx];
      is_spelled_[idx] = append_spelled_bytes(left, bytes_);
      ends[2 * idx + 1] = bytes_.size();
      is_spelled_[idx] =
          append_spelled_bytes(right, bytes_) && is_spelled_[idx];
      ends[2 * idx + 2] = bytes_.size();
    }
    const std::string_view bytes = bytes_;
    for (std::size_t idx = 0; idx < merges.size(); ++idx) {
      const auto [start, middle, end] = std::array<std::size_t, 3>{
          ends[2 * idx], ends[2 * idx + 1], ends[2 * idx + 2]};
      left_[idx] = bytes.substr(start, middle - start);
      right_[idx] = bytes.substr(middle, end - middle);
      both_[idx] = bytes.substr(start, end - start);
    }
  }

  TokenId find_merged(std::size_t idx, const MergeStrings& merge) {
    const auto& [left, right] = merge;
    if (!is_spelled_[idx]) {
      const auto find = [&](std::string_view token) {
        return vocabulary_.find_model_token(token).value_or(
            Vocabulary::not_found);
      };
      left_ids_[idx] = find(left);
      right_ids_[idx] = find(right);
      return find(std::string(left) + std::string(right));
    }
    // Merges mostly are in the order of the ids they make.
    if (!vocabulary_.spells(expected_, both_[idx])) {
      const auto id = vocabulary_.find_bytes(both_[idx]);
      if (!id) {
        return Vocabulary::not_found;
      }
      expected_ = *id;
    }
    return expected_++;
  }

  const Vocabulary& vocabulary_;
  MergeTable& table_;
  std::string bytes_;
  std::array<bool, batch> is_spelled_{};
  std::array<std::string_view, batch> left_;
  std::array<std::string_view, batch> right_;
  std::array<std::string_view, batch> both_;
  std::array<TokenId, batch> left_ids_{};
  std::array<TokenId, batch> right_ids_{};
  std::array<TokenId, batch> merged_ids_{};
  TokenId expected_ = 0;
};

} // namespace

MergeResult read_merges(
    const Vocabulary& vocabulary,
    std::span<const MergeStrings> merges) {
  MergeResult result{MergeTable(merges.size()), std::nullopt};
  BatchReader reader(vocabulary, result.table);
  for (std::size_t start = 0; start < merges.size(); start += batch) {
    const auto count = std::min(batch, merges.size() - start);
    result.fault = reader.read(merges.subspan(start, count), start);
    if (result.fault) {
      break;
    }
  }
  return result;
}

} // namespace qwen3_mlx
