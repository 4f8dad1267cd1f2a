// SPDX-License-Identifier: MIT
// The way back of gguf_side_files.cpp: tokenizer.json as GGUF metadata.

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "base/file.h"
#include "convert/gguf_metadata.h"
#include "qwen3_mlx/chat_template.h"
#include "qwen3_mlx/error.h"
#include "qwen3_mlx/tokenizer.h"
#include "tokenizer/split_regexes.h"

namespace qwen3_mlx {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr std::uint64_t max_json_bytes = 256 << 20;

// tokenizer.ggml.token_type.
constexpr std::int32_t type_normal = 1;
constexpr std::int32_t type_control = 3;
constexpr std::int32_t type_user_defined = 4;
constexpr std::int32_t type_unused = 5;

/// tokenizer.json, of which each member is checked when it is asked for.
class TokenizerJson {
 public:
  explicit TokenizerJson(fs::path path)
      : path_(std::move(path)), json_(Json::parse(
                                    read_file(path_, max_json_bytes),
                                    nullptr,
                                    /* allow_exceptions */ false)) {
    if (!json_.is_object()) {
      throw FileError(path_, "expected a JSON object");
    }
  }

  [[noreturn]] void
  fail(const std::string& field, const std::string& reason) const {
    throw FieldError(path_, field, reason);
  }

  /// Of the whole, or nothing.
  const Json& get(const char* key) const {
    static const Json nothing;
    const auto found = json_.find(key);
    return found == json_.end() ? nothing : *found;
  }
  const Json& model(const char* key) const {
    const auto& model = get("model");
    if (!model.is_object() || !model.contains(key)) {
      fail(std::string("model.") + key, "is missing");
    }
    return model[key];
  }

 private:
  fs::path path_;
  Json json_;
};

std::string text_of(const Json& object, const char* key) {
  const auto found = object.is_object() ? object.find(key) : object.end();
  return object.is_object() && found != object.end() && found->is_string()
      ? found->get<std::string>()
      : std::string();
}

bool is_true(const Json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && found->is_boolean() && found->get<bool>();
}

/// llama.cpp's name for the way a text is split before it is merged.
std::optional<std::string> family_of(const Json& pre_tokenizer) {
  if (text_of(pre_tokenizer, "type") == "ByteLevel") {
    return is_true(pre_tokenizer, "use_regex") ? std::optional("gpt-2")
                                               : std::nullopt;
  }
  const auto steps = pre_tokenizer.is_object()
      ? pre_tokenizer.find("pretokenizers")
      : pre_tokenizer.end();
  if (!pre_tokenizer.is_object() || steps == pre_tokenizer.end() ||
      !steps->is_array() || steps->size() != 2 ||
      text_of((*steps)[1], "type") != "ByteLevel") {
    return std::nullopt;
  }
  const auto& first = (*steps)[0];
  if (text_of(first, "type") == "Digits") {
    return is_true((*steps)[1], "use_regex") ? std::optional("smollm")
                                             : std::nullopt;
  }
  if (text_of(first, "type") != "Split" || !first.contains("pattern")) {
    return std::nullopt;
  }
  const auto regex = text_of(first["pattern"], "Regex");
  constexpr std::array<std::pair<std::string_view, const char*>, 3> known{
      {{split_regex::qwen2, "qwen2"},
       {split_regex::qwen35, "qwen35"},
       {split_regex::llama3, "llama-bpe"}}};
  for (const auto& [pattern, name] : known) {
    if (regex == pattern) {
      return name;
    }
  }
  return std::nullopt;
}

struct Tokens {
  std::vector<std::string> texts;
  std::vector<std::int32_t> types;
};

/// By id; ids that nothing stands for get a placeholder, as llama.cpp's own
/// converter gives them.
Tokens tokens_of(const TokenizerJson& json, std::int64_t n_vocab) {
  Tokens tokens;
  for (std::int64_t id = 0; id < n_vocab; ++id) {
    tokens.texts.push_back("[PAD" + std::to_string(id) + "]");
  }
  tokens.types.assign(tokens.texts.size(), type_unused);
  const auto set =
      [&](const std::string& text, const Json& id, std::int32_t type) {
        if (!id.is_number_unsigned() ||
            id.get<std::uint64_t>() >= tokens.texts.size()) {
          json.fail(
              "model.vocab",
              "token \"" + text + "\" has the id " + id.dump() +
                  ", the embedding has " + std::to_string(n_vocab) + " rows");
        }
        const auto idx = id.get<std::size_t>();
        tokens.texts[idx] = text;
        tokens.types[idx] = type;
      };
  const auto& vocab = json.model("vocab");
  if (!vocab.is_object()) {
    json.fail("model.vocab", "expected an object");
  }
  for (const auto& [text, id] : vocab.items()) {
    set(text, id, type_normal);
  }
  const auto& added = json.get("added_tokens");
  if (added.is_array()) {
    for (const auto& token : added) {
      if (!token.is_object() || !token.contains("id")) {
        json.fail("added_tokens", "expected objects with an id");
      }
      set(text_of(token, "content"),
          token["id"],
          is_true(token, "special") ? type_control : type_user_defined);
    }
  }
  return tokens;
}

/// "a b", of either layout of tokenizer.json.
std::vector<std::string> merges_of(const TokenizerJson& json) {
  const auto& list = json.model("merges");
  std::vector<std::string> merges;
  if (!list.is_array()) {
    json.fail("model.merges", "expected a list");
  }
  for (const auto& merge : list) {
    if (merge.is_string()) {
      merges.push_back(merge.get<std::string>());
    } else if (
        merge.is_array() && merge.size() == 2 && merge[0].is_string() &&
        merge[1].is_string()) {
      merges.push_back(
          merge[0].get<std::string>() + " " + merge[1].get<std::string>());
    } else {
      json.fail("model.merges", "expected pairs of strings");
    }
  }
  return merges;
}

void add_special_ids(const Tokenizer& tokenizer, GgufMetadata& metadata) {
  const std::array<std::pair<const char*, std::optional<std::uint32_t>>, 3> ids{
      {{"tokenizer.ggml.bos_token_id", tokenizer.bos_id()},
       {"tokenizer.ggml.eos_token_id", tokenizer.eos_id()},
       {"tokenizer.ggml.padding_token_id", tokenizer.pad_id()}}};
  for (const auto& [key, id] : ids) {
    if (id) {
      metadata.add_uint(key, *id);
    }
  }
  const auto around = tokenizer.encode("", {.add_special_tokens = true});
  const auto bos = tokenizer.bos_id();
  metadata.add_bool(
      "tokenizer.ggml.add_bos_token",
      bos && !around.empty() && around.front() == *bos);
}

void add_chat_template(const fs::path& from, GgufMetadata& metadata) {
  const auto chat_template = load_chat_template(from);
  if (!chat_template.is_default()) {
    metadata.add_string("tokenizer.chat_template", chat_template.source());
  }
}

/// A GGUF file's own tokenizer, key by key.
void copy_from_gguf(const GgufFile& file, GgufMetadata& metadata) {
  for (const auto* key :
       {"tokenizer.ggml.model",
        "tokenizer.ggml.pre",
        "tokenizer.chat_template"}) {
    if (const auto text = file.get_string(key)) {
      metadata.add_string(key, *text);
    }
  }
  for (const auto* key : {"tokenizer.ggml.tokens", "tokenizer.ggml.merges"}) {
    if (const auto* texts = file.get_strings(key)) {
      metadata.add_strings(key, *texts);
    }
  }
  if (const auto types = file.get_ints("tokenizer.ggml.token_type")) {
    metadata.add_ints(
        "tokenizer.ggml.token_type",
        std::vector<std::int32_t>(types->begin(), types->end()));
  }
  for (const auto* name : {"bos", "eos", "eot", "padding", "unknown"}) {
    const auto key = std::string("tokenizer.ggml.") + name + "_token_id";
    if (const auto id = file.get_uint(key)) {
      metadata.add_uint(key, *id);
    }
  }
  for (const auto* name : {"add_bos_token", "add_eos_token"}) {
    const auto key = std::string("tokenizer.ggml.") + name;
    if (const auto value = file.get_bool(key)) {
      metadata.add_bool(key, *value);
    }
  }
}

} // namespace

void add_tokenizer_metadata(
    const fs::path& from,
    std::int64_t n_vocab,
    GgufMetadata& metadata) {
  if (fs::is_regular_file(from)) {
    copy_from_gguf(GgufFile(from), metadata);
    return;
  }
  const auto path = from / "tokenizer.json";
  if (!fs::exists(path)) {
    return;
  }
  const auto tokenizer = load_tokenizer(from);
  const TokenizerJson json(path);
  const auto family = family_of(json.get("pre_tokenizer"));
  if (!family) {
    json.fail(
        "pre_tokenizer",
        "expected that of Qwen, Llama 3, SmolLM or GPT-2, which llama.cpp has "
        "names for");
  }
  const auto tokens = tokens_of(json, n_vocab);
  metadata.add_string("tokenizer.ggml.model", "gpt2");
  metadata.add_string("tokenizer.ggml.pre", *family);
  metadata.add_strings("tokenizer.ggml.tokens", tokens.texts);
  metadata.add_ints("tokenizer.ggml.token_type", tokens.types);
  metadata.add_strings("tokenizer.ggml.merges", merges_of(json));
  add_special_ids(tokenizer, metadata);
  add_chat_template(from, metadata);
}

} // namespace qwen3_mlx
