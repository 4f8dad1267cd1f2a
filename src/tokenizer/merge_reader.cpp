// SPDX-License-Identifier: MIT
#include "tokenizer/merge_reader.h"

#include <algorithm>
#include <array>
#include <cstdint>
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

} // namespace

bool SpelledMerges::add(const MergeStrings& merge) {
  if (!append_spelled_bytes(merge.first, bytes_)) {
    return false;
  }
  const std::size_t middle = bytes_.size();
  if (!append_spelled_bytes(merge.second, bytes_)) {
    bytes_.resize(ends_.back());
    return false;
  }
  ends_.push_back(middle);
  ends_.push_back(bytes_.size());
  return true;
}

void SpelledMerges::clear() {
  bytes_.clear();
  ends_.resize(1);
}

std::span<const MergeIds> MergeBatchReader::read(
    const SpelledMerges& merges,
    std::size_t first,
    std::size_t count) {
  for (std::size_t idx = 0; idx < count; ++idx) {
    left_[idx] = merges.left(first + idx);
    right_[idx] = merges.right(first + idx);
  }
  vocabulary_.find_bytes(std::span(left_).first(count), left_ids_);
  vocabulary_.find_bytes(std::span(right_).first(count), right_ids_);
  for (std::size_t idx = 0; idx < count; ++idx) {
    const TokenId merged = find_merged(merges.merged(first + idx));
    ids_[idx] = {left_ids_[idx], right_ids_[idx], merged};
  }
  return std::span(ids_).first(count);
}

std::span<const MergeIds>
MergeBatchReader::read(std::span<const MergeStrings> merges) {
  spelled_.clear();
  for (const MergeStrings& merge : merges) {
    if (!spelled_.add(merge)) {
      break;
    }
  }
  if (spelled_.size() == merges.size()) {
    return read(spelled_, 0, merges.size());
  }
  const auto find = [&](std::string_view token) {
    return vocabulary_.find_model_token(token).value_or(Vocabulary::not_found);
  };
  for (std::size_t idx = 0; idx < merges.size(); ++idx) {
    const auto& [left, right] = merges[idx];
    ids_[idx] = {
        find(left), find(right), find(std::string(left) + std::string(right))};
  }
  return std::span(ids_).first(merges.size());
}

TokenId MergeBatchReader::find_merged(std::string_view bytes) {
  // Merges mostly are in the order of the ids they make.
  if (!vocabulary_.spells(expected_, bytes)) {
    const auto id = vocabulary_.find_bytes(bytes);
    if (!id) {
      return Vocabulary::not_found;
    }
    expected_ = *id;
  }
  return expected_++;
}

namespace {

std::vector<MergeIds>
find_ids(const Vocabulary& vocabulary, std::span<const MergeStrings> merges) {
  std::vector<MergeIds> ids(merges.size());
  const auto work = [&](std::size_t first, std::size_t last) {
    MergeBatchReader reader(vocabulary);
    for (std::size_t start = first; start < last; start += batch) {
      const auto count = std::min(batch, last - start);
      const auto found = reader.read(merges.subspan(start, count));
      std::copy(
          found.begin(),
          found.end(),
          ids.begin() + static_cast<std::ptrdiff_t>(start));
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
  const auto fault =
      std::find_if(ids.begin(), ids.end(), [](const auto& merge) {
        return merge.is_fault();
      });
  if (fault == ids.end()) {
    MergeTable table(ids.size());
    for (std::size_t start = 0; start < ids.size(); start += batch) {
      const auto count = std::min(batch, ids.size() - start);
      table.add(std::span(ids).subspan(start, count), start);
    }
    return {std::move(table), std::nullopt};
  }
  const auto idx = static_cast<std::size_t>(fault - ids.begin());
  return {MergeTable(), MergeFault{idx, missing_token(merges[idx], *fault)}};
}

} // namespace qwen3_mlx
