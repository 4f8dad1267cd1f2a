// SPDX-License-Identifier: MIT
// model.vocab and model.merges are nearly all of a tokenizer.json. They are
// read ahead of the rest by a scanner that knows no more than the form they
// have in real files. It gives up at anything else, and leaves the file to the
// JSON parser, which also has the words for what is wrong.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "tokenizer/merge_table.h"
#include "tokenizer/vocabulary.h"

namespace qwen3_mlx {

/// A text that is read a part at a time: all of it at once would cost more
/// time for fresh memory than reading it does.
struct TextSource {
  std::uint64_t size = 0; ///< In bytes.
  /// Copies `n_bytes` from `offset` on, which lie inside the text, to `out`.
  std::function<void(std::uint64_t offset, std::size_t n_bytes, char* out)>
      read;
};

struct ModelLists {
  Vocabulary vocabulary; ///< With its index.
  MergeTable merges;
  /// The JSON text with both lists empty. All else in it is as it was, and
  /// unchecked.
  std::string rest;
};

/// Both lists; nothing when the text is in any way not as expected.
std::optional<ModelLists> read_model_lists(const TextSource& source);

} // namespace qwen3_mlx
