// SPDX-License-Identifier: MIT
// Makes the table of merges, of a large vocabulary on a thread of its own while
// another reads them.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <future>
#include <mutex>
#include <optional>

#include "tokenizer/merge_reader.h"
#include "tokenizer/merge_table.h"
#include "tokenizer/vocabulary.h"

namespace qwen3_mlx {

class MergeTableBuilder {
 public:
  /// Indexes `vocabulary`, too. Nobody else may touch it before finish().
  explicit MergeTableBuilder(Vocabulary& vocabulary);
  ~MergeTableBuilder();
  MergeTableBuilder(const MergeTableBuilder&) = delete;
  MergeTableBuilder& operator=(const MergeTableBuilder&) = delete;

  /// Adds merges behind all before.
  void add(SpelledMerges merges);

  /// Waits for the table; once. Nothing when a token occurs twice, when a merge
  /// is of unknown tokens, or when there are more merges than tokens.
  std::optional<MergeTable> finish();

 private:
  std::optional<MergeTable> build();
  std::optional<SpelledMerges> next();
  void close();

  Vocabulary& vocabulary_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<SpelledMerges> waiting_; // Guarded by mutex_.
  bool is_closed_ = false;            // Guarded by mutex_.
  // Without a thread it builds in finish().
  std::future<std::optional<MergeTable>> table_;
};

} // namespace qwen3_mlx
