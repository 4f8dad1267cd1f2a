// SPDX-License-Identifier: MIT
// The tokenizer of a GGUF file. The file names the family of split patterns
// ("tokenizer.ggml.pre"); normalizer and the rest follow from the family.
#include <array>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "formats/gguf.h"
#include "qwen3_mlx/error.h"
#include "tokenizer/json_access.h"
#include "tokenizer/loaders.h"
#include "tokenizer/merge_reader.h"

namespace qwen3_mlx {
namespace {

struct Family {
  std::string_view pre;
  std::array<SplitStep, 2> steps;
  std::size_t num_steps;
  bool nfc;
  bool ignore_merges;
  bool add_bos; ///< Where the file does not say.
};

constexpr std::array<SplitStep, 2> one(SplitStep step) {
  return {step, step};
}

constexpr std::array<Family, 8> families{{
    {"qwen2", one(SplitStep::Qwen2), 1, true, false, false},
    {"deepseek-r1-qwen", one(SplitStep::Qwen2), 1, true, false, false},
    {"qwen35", one(SplitStep::Qwen35), 1, true, false, false},
    {"llama-bpe", one(SplitStep::Llama3), 1, false, true, true},
    {"llama3", one(SplitStep::Llama3), 1, false, true, true},
    {"llama-v3", one(SplitStep::Llama3), 1, false, true, true},
    {"smollm", {SplitStep::Digits, SplitStep::Gpt2}, 2, false, false, false},
    {"gpt-2", one(SplitStep::Gpt2), 1, false, false, false},
}};

// tokenizer.ggml.token_type, of which the others are plain.
constexpr std::int64_t type_control = 3;
constexpr std::int64_t type_user_defined = 4;
constexpr std::int64_t type_unused = 5;

constexpr const char* tokens_key = "tokenizer.ggml.tokens";
constexpr const char* types_key = "tokenizer.ggml.token_type";
constexpr const char* merges_key = "tokenizer.ggml.merges";

std::string at(const char* key, std::size_t idx) {
  return std::string(key) + "[" + std::to_string(idx) + "]";
}

class TokenizerGguf {
 public:
  explicit TokenizerGguf(const std::filesystem::path& path) : file_(path) {}

  TokenizerDefinition read() {
    const Family& family = read_family();
    definition_.nfc = family.nfc;
    definition_.bpe.ignore_merges = family.ignore_merges;
    definition_.steps.assign(
        family.steps.begin(), family.steps.begin() + family.num_steps);
    read_tokens();
    read_merges();
    definition_.bos_id = read_id("tokenizer.ggml.bos_token_id");
    definition_.eos_id = read_id("tokenizer.ggml.eos_token_id");
    definition_.pad_id = read_id("tokenizer.ggml.padding_token_id");
    add_around(
        "tokenizer.ggml.add_bos_token",
        family.add_bos,
        definition_.bos_id,
        definition_.prefix);
    add_around(
        "tokenizer.ggml.add_eos_token",
        /* missing */ false,
        definition_.eos_id,
        definition_.suffix);
    return std::move(definition_);
  }

 private:
  [[noreturn]] void fail(const std::string& field, const std::string& why) {
    throw FieldError(file_.path(), field, why);
  }

  std::string read_string(const std::string& key) {
    const auto value = file_.get_string(key);
    if (!value) {
      fail(key, "missing: the file holds no tokenizer this program knows");
    }
    return *value;
  }

  const Family& read_family() {
    const auto model = read_string("tokenizer.ggml.model");
    if (model != "gpt2") {
      fail(
          "tokenizer.ggml.model",
          json::quote(model) +
              " is not supported, expected \"gpt2\" (byte-level BPE)");
    }
    const auto pre = read_string("tokenizer.ggml.pre");
    std::string known;
    for (const Family& family : families) {
      if (family.pre == pre) {
        return family;
      }
      known += (known.empty() ? "" : ", ") + std::string(family.pre);
    }
    fail(
        "tokenizer.ggml.pre",
        json::quote(pre) + " is not supported, expected one of " + known);
  }

  void read_tokens() {
    const auto* tokens = file_.get_strings(tokens_key);
    const auto types = file_.get_ints(types_key);
    if (tokens == nullptr || tokens->empty()) {
      fail(tokens_key, "missing or empty");
    }
    if (tokens->size() > std::size_t{max_token_id} + 1) {
      fail(tokens_key, "has " + std::to_string(tokens->size()) + " tokens");
    }
    if (types && types->size() != tokens->size()) {
      fail(
          types_key,
          "has " + std::to_string(types->size()) + " entries for " +
              std::to_string(tokens->size()) + " tokens");
    }
    Vocabulary& vocabulary = definition_.vocabulary;
    vocabulary.reserve(tokens->size(), tokens->size() * 8);
    // Added tokens come second: their place is known by then to be free.
    for (std::size_t idx = 0; idx < tokens->size(); ++idx) {
      const auto type = types ? (*types)[idx] : 0;
      if (type != type_unused && type != type_control &&
          type != type_user_defined) {
        vocabulary.add((*tokens)[idx], static_cast<TokenId>(idx));
      }
    }
    if (const auto id = vocabulary.index()) {
      fail(
          at(tokens_key, *id),
          json::quote(vocabulary.token(*id)) + " occurs twice");
    }
    for (std::size_t idx = 0; types && idx < tokens->size(); ++idx) {
      const auto type = (*types)[idx];
      if (type == type_control || type == type_user_defined) {
        AddedToken token;
        token.id = static_cast<TokenId>(idx);
        token.content = (*tokens)[idx];
        token.special = type == type_control;
        add_token(
            file_.path(), at(tokens_key, idx), std::move(token), definition_);
      }
    }
    // The embedding has a row for each entry, unused ones included.
    definition_.min_id_limit = static_cast<TokenId>(tokens->size());
  }

  void read_merges() {
    const auto* merges = file_.get_strings(merges_key);
    if (merges == nullptr) {
      fail(merges_key, "missing");
    }
    std::vector<MergeStrings> pairs;
    pairs.reserve(merges->size());
    for (std::size_t idx = 0; idx < merges->size(); ++idx) {
      const std::string_view merge = (*merges)[idx];
      const auto space = merge.find(' ');
      if (space == std::string_view::npos) {
        fail(at(merges_key, idx), "expected two tokens with a space between");
      }
      pairs.emplace_back(merge.substr(0, space), merge.substr(space + 1));
    }
    auto result = qwen3_mlx::read_merges(definition_.vocabulary, pairs);
    if (result.fault) {
      fail(
          at(merges_key, result.fault->idx),
          "token " + json::quote(result.fault->token) +
              " is not in the vocabulary");
    }
    definition_.merges = std::move(result.table);
  }

  std::optional<TokenId> read_id(const std::string& key) {
    const auto id = file_.get_uint(key);
    // Some writers say "none" as the largest number.
    if (!id || *id == std::numeric_limits<std::uint32_t>::max()) {
      return std::nullopt;
    }
    if (*id > max_token_id ||
        !definition_.vocabulary.has(static_cast<TokenId>(*id))) {
      fail(key, "id " + std::to_string(*id) + " is no token");
    }
    return static_cast<TokenId>(*id);
  }

  void add_around(
      const std::string& key,
      bool missing,
      std::optional<TokenId> id,
      std::vector<TokenId>& to) {
    if (!file_.get_bool(key).value_or(missing)) {
      return;
    }
    if (!id) {
      fail(key, "the file names no such token");
    }
    to.push_back(*id);
  }

  GgufFile file_;
  TokenizerDefinition definition_;
};

} // namespace

TokenizerDefinition read_tokenizer_gguf(const std::filesystem::path& file) {
  return TokenizerGguf(file).read();
}

} // namespace qwen3_mlx
