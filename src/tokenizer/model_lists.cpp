// SPDX-License-Identifier: MIT
#include "tokenizer/model_lists.h"

#include <string_view>
#include <utility>

#include "tokenizer/json_window.h"
#include "tokenizer/merge_reader.h"
#include "tokenizer/merge_table_builder.h"

namespace qwen3_mlx {
namespace {

/// Both layouts: "left right" and ["left", "right"].
std::optional<MergeStrings> read_merge(JsonWindow& json) {
  if (json.take('[')) {
    const auto left = json.string();
    if (!left || !json.take(',')) {
      return std::nullopt;
    }
    const auto right = json.string();
    if (!right || !json.take(']')) {
      return std::nullopt;
    }
    return MergeStrings(*left, *right);
  }
  const auto text = json.string();
  if (!text) {
    return std::nullopt;
  }
  const auto space = text->find(' ');
  if (space == std::string_view::npos || space != text->rfind(' ')) {
    return std::nullopt;
  }
  return MergeStrings(text->substr(0, space), text->substr(space + 1));
}

class ModelListsReader {
 public:
  explicit ModelListsReader(const TextSource& source)
      : text_bytes_(source.size), json_(source) {}

  std::optional<ModelLists> read() {
    const bool is_read = json_.object([&](std::string_view key) {
      return key == "model" ? read_model() : json_.skip();
    });
    if (!is_read || !has_merges_) {
      return std::nullopt;
    }
    auto merges = builder_->finish();
    if (!merges) {
      return std::nullopt;
    }
    return ModelLists{
        std::move(vocabulary_), std::move(*merges), json_.take_rest()};
  }

 private:
  bool read_model() {
    return json_.object([&](std::string_view key) {
      if (key == "vocab") {
        return json_.replace("{}", [&] { return read_vocab(); });
      }
      if (key == "merges") {
        return json_.replace("[]", [&] { return read_merges(); });
      }
      return json_.skip();
    });
  }

  bool read_vocab() {
    // What comes twice is for the parser to judge.
    if (builder_) {
      return false;
    }
    // Reserved memory that is not used is not touched. A token with its merge
    // takes 46 bytes or more in known files.
    vocabulary_.reserve(text_bytes_ / 46, text_bytes_ / 8);
    const bool is_read = json_.object([&](std::string_view token) {
      const auto id = json_.number(max_token_id);
      return id && vocabulary_.add(token, *id);
    });
    if (is_read && vocabulary_.size() != 0) {
      builder_.emplace(vocabulary_);
    }
    return builder_.has_value();
  }

  bool read_merges() {
    // Behind the vocabulary, as in all known files.
    if (!builder_ || std::exchange(has_merges_, true)) {
      return false;
    }
    SpelledMerges merges;
    const bool is_read = json_.list([&] {
      const auto merge = read_merge(json_);
      if (!merge || !merges.add(*merge)) {
        return false;
      }
      if (merges.size() == merges_at_once) {
        builder_->add(std::exchange(merges, {}));
      }
      return true;
    });
    builder_->add(std::move(merges));
    return is_read;
  }

  // Some 50 KiB: so few that they stay in the cache, so many that handing them
  // over costs nothing.
  static constexpr std::size_t merges_at_once = 4096;

  std::uint64_t text_bytes_;
  JsonWindow json_;
  Vocabulary vocabulary_;
  std::optional<MergeTableBuilder> builder_; // From the vocabulary's end on.
  bool has_merges_ = false;
};

} // namespace

std::optional<ModelLists> read_model_lists(const TextSource& source) {
  return ModelListsReader(source).read();
}

} // namespace qwen3_mlx
