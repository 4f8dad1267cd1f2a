// SPDX-License-Identifier: MIT
#include "tokenizer/merge_table_builder.h"

#include <algorithm>
#include <utility>

namespace qwen3_mlx {
namespace {

std::launch policy_for(const Vocabulary& vocabulary) {
  // Below this a thread costs more than it saves.
  constexpr std::size_t min_tokens = 16384;
  return vocabulary.size() < min_tokens
      ? std::launch::deferred
      : std::launch::async | std::launch::deferred;
}

} // namespace

MergeTableBuilder::MergeTableBuilder(Vocabulary& vocabulary)
    : vocabulary_(vocabulary),
      table_(std::async(policy_for(vocabulary), [this] { return build(); })) {}

MergeTableBuilder::~MergeTableBuilder() {
  close(); // The future then waits for the thread.
}

void MergeTableBuilder::add(SpelledMerges merges) {
  {
    const std::lock_guard lock(mutex_);
    waiting_.push_back(std::move(merges));
  }
  changed_.notify_one();
}

void MergeTableBuilder::close() {
  {
    const std::lock_guard lock(mutex_);
    is_closed_ = true;
  }
  changed_.notify_one();
}

std::optional<SpelledMerges> MergeTableBuilder::next() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return is_closed_ || !waiting_.empty(); });
  if (waiting_.empty()) {
    return std::nullopt;
  }
  auto merges = std::move(waiting_.front());
  waiting_.pop_front();
  return merges;
}

std::optional<MergeTable> MergeTableBuilder::build() {
  if (vocabulary_.index()) {
    return std::nullopt;
  }
  MergeTable table(vocabulary_.size());
  MergeBatchReader reader(vocabulary_);
  std::size_t rank = 0;
  while (const auto merges = next()) {
    if (merges->size() > vocabulary_.size() - rank) {
      return std::nullopt;
    }
    constexpr auto batch = MergeBatchReader::max_merges;
    for (std::size_t first = 0; first < merges->size(); first += batch) {
      const auto ids =
          reader.read(*merges, first, std::min(batch, merges->size() - first));
      if (std::any_of(ids.begin(), ids.end(), [](const MergeIds& merge) {
            return merge.is_fault();
          })) {
        return std::nullopt;
      }
      table.add(ids, rank);
      rank += ids.size();
    }
  }
  return table;
}

std::optional<MergeTable> MergeTableBuilder::finish() {
  close();
  return table_.get();
}

} // namespace qwen3_mlx
