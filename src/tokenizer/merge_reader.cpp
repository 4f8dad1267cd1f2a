// SPDX-License-Identifier: MIT
#include "tokenizer/merge_reader.h"

#include <algorithm>
#include <array>
#include <future>
#include <thread>
#include <vector>

#include "tokenizer/byte_level.h"

namespace qwen3_mlx {
namespace {

constexpr std::size_t batch = Vocabulary::batch_size;

// Below this a thread costs more than it saves.
constexpr std::size_t min_per_thread = 16384;
constexpr std::size_t max_threads = 4;

struct MergeIds {
  TokenId left;
  TokenId right;
  TokenId merged;
};

/// Finds the ids of merges, a batch at a time, so that the misses of their
/// look-ups overlap.
class BatchReader {
 public:
  explicit BatchReader(const Vocabulary& vocabulary)
      : vocabulary_(vocabulary) {}

  void read(std::span<const MergeStrings> merges, MergeIds* ids) {
    spell(merges);
    vocabulary_.find_bytes(std::span(left_).first(merges.size()), left_ids_);
    vocabulary_.find_bytes(std::span(right_).first(merges.size()), right_ids_);
    for (std::size_t idx = 0; idx < merges.size(); ++idx) {
      const TokenId merged = find_merged(idx, merges[idx]);
      ids[idx] = {left_ids_[idx], right_ids_[idx], merged};
    }
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
  std::string bytes_;
  std::array<bool, batch> is_spelled_{};
  std::array<std::string_view, batch> left_;
  std::array<std::string_view, batch> right_;
  std::array<std::string_view, batch> both_;
  std::array<TokenId, batch> left_ids_{};
  std::array<TokenId, batch> right_ids_{};
  TokenId expected_ = 0;
};

std::vector<MergeIds>
find_ids(const Vocabulary& vocabulary, std::span<const MergeStrings> merges) {
  std::vector<MergeIds> ids(merges.size());
  const auto work = [&](std::size_t first, std::size_t last) {
    BatchReader reader(vocabulary);
    for (std::size_t start = first; start < last; start += batch) {
      const auto count = std::min(batch, last - start);
      reader.read(merges.subspan(start, count), ids.data() + start);
    }
  };
  // Strings to ids is half of the time to load a tokenizer.
  const std::size_t num_parts = std::clamp<std::size_t>(
      std::min<std::size_t>(
          std::thread::hardware_concurrency(), merges.size() / min_per_thread),
      1,
      max_threads);
  std::vector<std::future<void>> parts;
  for (std::size_t part = 0; part < num_parts; ++part) {
    const std::size_t first = merges.size() * part / num_parts;
    const std::size_t last = merges.size() * (part + 1) / num_parts;
    // Without a thread to be had, the part runs in get().
    parts.push_back(std::async(
        part == 0 ? std::launch::deferred
                  : std::launch::async | std::launch::deferred,
        work,
        first,
        last));
  }
  for (auto& part : parts) {
    part.get();
  }
  return ids;
}

std::string missing_token(const MergeStrings& merge, const MergeIds& ids) {
  const auto& [left, right] = merge;
  return ids.left == Vocabulary::not_found ? std::string(left)
      : ids.right == Vocabulary::not_found
      ? std::string(right)
      : std::string(left) + std::string(right);
}

} // namespace

MergeResult read_merges(
    const Vocabulary& vocabulary,
    std::span<const MergeStrings> merges) {
  const auto ids = find_ids(vocabulary, merges);
  MergeResult result{MergeTable(merges.size()), std::nullopt};
  for (std::size_t idx = 0; idx < ids.size(); ++idx) {
    // The table's slots are asked for a little before they are written.
    const auto& ahead = ids[std::min(idx + batch / 4, ids.size() - 1)];
    result.table.prefetch(ahead.left, ahead.right);
    const auto& [left, right, merged] = ids[idx];
    if (left == Vocabulary::not_found || right == Vocabulary::not_found ||
        merged == Vocabulary::not_found) {
      result.fault = MergeFault{idx, missing_token(merges[idx], ids[idx])};
      break;
    }
    result.table.add(left, right, {static_cast<std::uint32_t>(idx), merged});
  }
  return result;
}

} // namespace qwen3_mlx
