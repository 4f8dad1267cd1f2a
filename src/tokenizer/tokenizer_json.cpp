// SPDX-License-Identifier: MIT
// tokenizer.json is read in one pass with simdjson's on-demand parser: 11 MB of
// vocabulary must not cost a tree. Strings stay in the parser's buffer until
// the vocabulary is complete, since merges and added tokens may come first.
// Vocabulary and merges of the usual form do not even get there: model_lists.h.
#include <algorithm>
#include <array>
#include <cstddef>
#include <utility>
#include <vector>

#include "base/file.h"
#include "tokenizer/json_access.h"
#include "tokenizer/loaders.h"
#include "tokenizer/merge_reader.h"
#include "tokenizer/model_lists.h"
#include "tokenizer/pipeline_json.h"

namespace qwen3_mlx {
namespace {

namespace ondemand = simdjson::ondemand;

constexpr std::uint64_t max_file_bytes = std::uint64_t{1} << 30;

class TokenizerJson {
 public:
  explicit TokenizerJson(const std::filesystem::path& file) : file_(file) {}

  /// All but what `lists` has.
  TokenizerDefinition read_rest(ModelLists lists) {
    definition_.vocabulary = std::move(lists.vocabulary);
    const auto size = lists.rest.size();
    lists.rest.append(simdjson::SIMDJSON_PADDING, '\0');
    parse(simdjson::padded_string_view(
        lists.rest.data(), size, lists.rest.size()));
    definition_.merges = std::move(lists.merges);
    return finish();
  }

  /// Any JSON, with its errors.
  TokenizerDefinition read(simdjson::padded_string_view text) {
    // In bytes a token of the vocabulary takes about 75 with its merge.
    definition_.vocabulary.reserve(text.size() / 75, text.size() / 8);
    merges_.reserve(text.size() / 75);
    parse(text);
    if (const auto id = definition_.vocabulary.index()) {
      throw FieldError(
          file_,
          "model.vocab[" + json::quote(definition_.vocabulary.token(*id)) + "]",
          "this token occurs twice");
    }
    read_merge_table();
    return finish();
  }

 private:
  void parse(simdjson::padded_string_view text) {
    ondemand::document document;
    ondemand::object top;
    auto error = parser_.iterate(text).get(document);
    if (error == simdjson::SUCCESS) {
      error = document.get_object().get(top);
    }
    if (error == simdjson::INCORRECT_TYPE) {
      throw FileError(file_, "expected a JSON object");
    }
    if (error != simdjson::SUCCESS) {
      throw FileError(
          file_, std::string("not JSON: ") + simdjson::error_message(error));
    }
    const auto root = [] { return std::string("the file"); };
    json::for_each_field(
        file_, root, top, [&](std::string_view key, ondemand::value value) {
          read_top(key, value);
        });
    // Only behind its end has a document no location.
    if (document.current_location().error() != simdjson::OUT_OF_BOUNDS) {
      throw FileError(file_, "text behind the JSON object");
    }
    if (!has_model_) {
      throw FieldError(file_, "model", "missing");
    }
  }

  TokenizerDefinition finish() {
    if (has_unk_) {
      const auto id = definition_.vocabulary.find_model_token(unk_token_);
      if (!id) {
        throw FieldError(
            file_,
            "model.unk_token",
            json::quote(unk_token_) + " is not in the vocabulary");
      }
      definition_.bpe.unk_id = *id;
    }
    for (std::size_t idx = 0; idx < added_.size(); ++idx) {
      add_token(
          file_,
          "added_tokens[" + std::to_string(idx) + "]",
          std::move(added_[idx]),
          definition_);
    }
    read_pipeline(file_, texts_, definition_);
    return std::move(definition_);
  }

  void read_top(std::string_view key, ondemand::value value) {
    const std::array<std::pair<std::string_view, std::string_view*>, 4> parts{
        {{"normalizer", &texts_.normalizer},
         {"pre_tokenizer", &texts_.pre_tokenizer},
         {"post_processor", &texts_.post_processor},
         {"decoder", &texts_.decoder}}};
    for (const auto& [name, text] : parts) {
      if (key == name) {
        if (simdjson::to_json_string(value).get(*text) != simdjson::SUCCESS) {
          throw FieldError(file_, std::string(key), "malformed JSON");
        }
        return;
      }
    }
    if (key == "added_tokens") {
      read_added_tokens(value);
    } else if (key == "model") {
      read_model(value);
    } else {
      json::skip(file_, std::string(key), value);
    }
  }

  void read_added_tokens(ondemand::value value) {
    const auto list = [] { return std::string("added_tokens"); };
    if (json::is_null(file_, list, value)) {
      return;
    }
    json::for_each_element(
        file_,
        list,
        json::get_array(file_, list, value),
        [&](std::size_t idx, ondemand::value element) {
          read_added_token(idx, element);
        });
  }

  void read_added_token(std::size_t idx, ondemand::value value) {
    const auto name = [&] {
      return "added_tokens[" + std::to_string(idx) + "]";
    };
    AddedToken token;
    token.normalized = true; // Only where "normalized" is missing.
    bool has_id = false;
    json::for_each_field(
        file_,
        name,
        json::get_object(file_, name, value),
        [&](std::string_view key, ondemand::value inner) {
          const auto field = [&] { return name() + "." + std::string(key); };
          if (key == "id") {
            token.id = json::get_id(file_, field, inner, max_token_id);
            has_id = true;
          } else if (key == "content") {
            token.content = json::get_string(file_, field, inner);
          } else if (key == "single_word") {
            token.single_word = json::get_bool(file_, field, inner);
          } else if (key == "lstrip") {
            token.lstrip = json::get_bool(file_, field, inner);
          } else if (key == "rstrip") {
            token.rstrip = json::get_bool(file_, field, inner);
          } else if (key == "normalized") {
            token.normalized = json::get_bool(file_, field, inner);
          } else if (key == "special") {
            token.special = json::get_bool(file_, field, inner);
          } else {
            json::skip(file_, field(), inner);
          }
        });
    if (!has_id) {
      throw FieldError(file_, name() + ".id", "missing");
    }
    added_.push_back(std::move(token));
  }

  void read_model(ondemand::value value) {
    const auto name = [] { return std::string("model"); };
    has_model_ = true;
    json::for_each_field(
        file_,
        name,
        json::get_object(file_, name, value),
        [&](std::string_view key, ondemand::value inner) {
          const auto field = [&] { return "model." + std::string(key); };
          if (key == "vocab") {
            read_vocab(inner);
          } else if (key == "merges") {
            read_merges(inner);
          } else if (key == "type") {
            const auto type = json::get_string(file_, field, inner);
            if (type != "BPE") {
              unsupported(field(), type, "expected \"BPE\"");
            }
          } else if (key == "ignore_merges") {
            definition_.bpe.ignore_merges = json::get_bool(file_, field, inner);
          } else if (key == "fuse_unk") {
            definition_.bpe.fuse_unk = json::get_bool(file_, field, inner);
          } else if (key == "unk_token") {
            if (!json::is_null(file_, field, inner)) {
              unk_token_ = json::get_string(file_, field, inner);
              has_unk_ = true;
            }
          } else {
            read_refused(key, inner);
          }
        });
  }

  /// Settings that are known and only supported when they do nothing.
  void read_refused(std::string_view key, ondemand::value value) {
    const auto field = [&] { return "model." + std::string(key); };
    if (key == "continuing_subword_prefix" || key == "end_of_word_suffix") {
      if (!json::is_null(file_, field, value)) {
        const auto text = json::get_string(file_, field, value);
        if (!text.empty()) {
          unsupported(field(), text, "expected null or \"\"");
        }
      }
    } else if (key == "dropout") {
      if (!json::is_null(file_, field, value) &&
          json::expect(file_, field, "null", value, value.get_double()) != 0) {
        throw FieldError(file_, field(), "dropout is not supported");
      }
    } else if (key == "byte_fallback") {
      if (json::get_bool(file_, field, value)) {
        throw FieldError(
            file_, field(), "true is not supported, expected byte-level BPE");
      }
    } else {
      json::skip(file_, field(), value);
    }
  }

  [[noreturn]] void unsupported(
      const std::string& field,
      std::string_view found,
      const std::string& expected) const {
    throw FieldError(
        file_, field, json::quote(found) + " is not supported, " + expected);
  }

  void read_vocab(ondemand::value value) {
    const auto name = [] { return std::string("model.vocab"); };
    Vocabulary& vocabulary = definition_.vocabulary;
    json::for_each_field(
        file_,
        name,
        json::get_object(file_, name, value),
        [&](std::string_view token, ondemand::value inner) {
          const auto field = [&] {
            return "model.vocab[" + json::quote(token) + "]";
          };
          const TokenId id = json::get_id(file_, field, inner, max_token_id);
          if (!vocabulary.add(token, id)) {
            throw FieldError(
                file_,
                field(),
                "id " + std::to_string(id) + " is already that of " +
                    json::quote(vocabulary.token(id)));
          }
        });
  }

  void read_merges(ondemand::value value) {
    const auto name = [] { return std::string("model.merges"); };
    has_merges_ = true;
    merges_.clear();
    json::for_each_element(
        file_,
        name,
        json::get_array(file_, name, value),
        [&](std::size_t idx, ondemand::value element) {
          merges_.push_back(read_merge(idx, element));
        });
  }

  /// Both layouts: "left right" and ["left", "right"].
  std::pair<std::string_view, std::string_view>
  read_merge(std::size_t idx, ondemand::value value) const {
    const auto name = [&] { return merge_name(idx); };
    ondemand::array pair;
    if (value.get_array().get(pair) == simdjson::SUCCESS) {
      std::array<std::string_view, 2> sides;
      std::size_t size = 0;
      json::for_each_element(
          file_, name, pair, [&](std::size_t side, ondemand::value element) {
            if (side < sides.size()) {
              sides[side] = json::get_token(file_, name, element);
            }
            size = side + 1;
          });
      if (size != sides.size()) {
        throw FieldError(
            file_,
            name(),
            "expected 2 tokens, found a list of " + std::to_string(size));
      }
      return {sides[0], sides[1]};
    }
    const std::string_view text = json::get_token(file_, name, value);
    const auto space = text.find(' ');
    if (space == std::string_view::npos ||
        text.find(' ', space + 1) != std::string_view::npos) {
      throw FieldError(
          file_,
          name(),
          "expected two tokens with one space between, found " +
              json::quote(text));
    }
    return {text.substr(0, space), text.substr(space + 1)};
  }

  static std::string merge_name(std::size_t idx) {
    return "model.merges[" + std::to_string(idx) + "]";
  }

  void read_merge_table() {
    if (definition_.vocabulary.size() == 0) {
      throw FieldError(file_, "model.vocab", "missing or empty");
    }
    if (!has_merges_) {
      throw FieldError(file_, "model.merges", "missing");
    }
    auto result = qwen3_mlx::read_merges(definition_.vocabulary, merges_);
    if (result.fault) {
      throw FieldError(
          file_,
          merge_name(result.fault->idx),
          "token " + json::quote(result.fault->token) +
              " is not in the vocabulary");
    }
    definition_.merges = std::move(result.table);
  }

  const std::filesystem::path& file_;
  ondemand::parser parser_; // Holds strings that the members view.
  TokenizerDefinition definition_;
  PipelineTexts texts_;
  std::vector<AddedToken> added_;
  std::vector<MergeStrings> merges_;
  std::string_view unk_token_;
  bool has_unk_ = false;
  bool has_model_ = false;
  bool has_merges_ = false;
};

TokenizerDefinition
read_source(const std::filesystem::path& file, const TextSource& source) {
  if (auto lists = read_model_lists(source)) {
    return TokenizerJson(file).read_rest(std::move(*lists));
  }
  simdjson::padded_string text(static_cast<std::size_t>(source.size));
  source.read(0, text.size(), text.data());
  return TokenizerJson(file).read(text);
}

} // namespace

TokenizerDefinition read_tokenizer_json(const std::filesystem::path& path) {
  const File file(path);
  if (file.size() > max_file_bytes) {
    throw FileError(
        path,
        "has " + std::to_string(file.size()) + " bytes, expected at most " +
            std::to_string(max_file_bytes));
  }
  return read_source(
      path,
      {file.size(), [&](std::uint64_t offset, std::size_t n_bytes, char* out) {
         file.read(offset, n_bytes, out);
       }});
}

TokenizerDefinition
parse_tokenizer_json(const std::filesystem::path& file, std::string_view text) {
  return read_source(
      file,
      {text.size(), [&](std::uint64_t offset, std::size_t n_bytes, char* out) {
         text.copy(out, n_bytes, static_cast<std::size_t>(offset));
       }});
}

TokenizerDefinition parse_tokenizer_json_plainly(
    const std::filesystem::path& file,
    std::string_view text) {
  return TokenizerJson(file).read(simdjson::padded_string(text));
}

} // namespace qwen3_mlx
