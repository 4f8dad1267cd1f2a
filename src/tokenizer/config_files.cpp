// SPDX-License-Identifier: MIT
// The small JSON files beside a tokenizer.json.
#include <nlohmann/json.hpp>

#include <algorithm>
#include <charconv>
#include <string>
#include <system_error>
#include <utility>

#include "base/file.h"
#include "qwen3_mlx/error.h"
#include "tokenizer/json_access.h"
#include "tokenizer/loaders.h"

namespace qwen3_mlx {
namespace {

using Json = nlohmann::json;
namespace fs = std::filesystem;

constexpr std::uint64_t max_config_bytes = std::uint64_t{1} << 26;
// Longer added tokens exist nowhere, and a search by trie wants a bound.
constexpr std::size_t max_added_token_bytes = 1024;

/// The object in `file`, or null when there is no such file.
Json load_object(const fs::path& file) {
  std::error_code error;
  if (!fs::exists(file, error)) {
    return nullptr;
  }
  const std::string text = read_file(file, max_config_bytes);
  Json json = Json::parse(text, nullptr, /* allow_exceptions */ false);
  if (json.is_discarded()) {
    throw FileError(file, "not JSON");
  }
  if (!json.is_object()) {
    throw FileError(file, "expected a JSON object");
  }
  return json;
}

bool read_flag(
    const fs::path& file,
    const std::string& field,
    const Json& json,
    const char* key) {
  const auto found = json.find(key);
  if (found == json.end()) {
    return false;
  }
  if (!found->is_boolean()) {
    throw FieldError(
        file,
        field + "." + key,
        std::string("expected true or false, found ") + found->type_name());
  }
  return found->get<bool>();
}

TokenId parse_id(
    const fs::path& file,
    const std::string& field,
    const std::string& text) {
  TokenId id = 0;
  const char* end = text.data() + text.size();
  const auto result = std::from_chars(text.data(), end, id);
  if (result.ec != std::errc{} || result.ptr != end || id > max_token_id) {
    throw FieldError(
        file,
        field,
        "expected a token id from 0 to " + std::to_string(max_token_id) +
            " as key");
  }
  return id;
}

/// tokenizer.json is the truth; this adds what it lacks and refuses what
/// contradicts it.
void add_if_missing(
    const fs::path& file,
    const std::string& field,
    AddedToken token,
    TokenizerDefinition& definition) {
  if (is_added(definition, token.id) &&
      definition.vocabulary.find_token(token.content) == token.id) {
    return;
  }
  add_token(file, field, std::move(token), definition);
}

void read_added_tokens_decoder(
    const fs::path& file,
    const Json& config,
    TokenizerDefinition& definition) {
  const auto decoder = config.find("added_tokens_decoder");
  if (decoder == config.end() || decoder->is_null()) {
    return;
  }
  if (!decoder->is_object()) {
    throw FieldError(file, "added_tokens_decoder", "expected an object");
  }
  for (const auto& [key, json] : decoder->items()) {
    const auto field = "added_tokens_decoder[" + json::quote(key) + "]";
    const auto content = json.is_object() ? json.find("content") : json.end();
    if (content == json.end() || !content->is_string()) {
      throw FieldError(file, field, "expected an object with a \"content\"");
    }
    AddedToken token;
    token.id = parse_id(file, field, key);
    token.content = content->get<std::string>();
    token.single_word = read_flag(file, field, json, "single_word");
    token.lstrip = read_flag(file, field, json, "lstrip");
    token.rstrip = read_flag(file, field, json, "rstrip");
    token.normalized = read_flag(file, field, json, "normalized");
    token.special = read_flag(file, field, json, "special");
    add_if_missing(file, field, std::move(token), definition);
  }
}

void read_added_tokens(const fs::path& file, TokenizerDefinition& definition) {
  const Json json = load_object(file);
  if (json.is_null()) {
    return;
  }
  for (const auto& [content, id] : json.items()) {
    const auto field = "[" + json::quote(content) + "]";
    if (!id.is_number_unsigned() || id.get<std::uint64_t>() > max_token_id) {
      throw FieldError(file, field, "expected a token id, found " + id.dump());
    }
    AddedToken token;
    token.id = id.get<TokenId>();
    token.content = content;
    add_if_missing(file, field, std::move(token), definition);
  }
}

/// "bos_token": a string, null, or an object with "content".
void read_special_id(
    const fs::path& file,
    const Json& config,
    const char* key,
    const Vocabulary& vocabulary,
    std::optional<TokenId>& id) {
  const auto found = config.find(key);
  if (id || found == config.end() || found->is_null()) {
    return;
  }
  const Json& content = found->is_object() && found->contains("content")
      ? (*found)["content"]
      : *found;
  if (!content.is_string()) {
    throw FieldError(
        file,
        key,
        std::string("expected a token, found ") + content.type_name());
  }
  id = vocabulary.find_token(content.get<std::string>());
}

void read_special_ids(
    const fs::path& file,
    const Json& config,
    TokenizerDefinition& definition) {
  if (config.is_null()) {
    return;
  }
  const Vocabulary& vocabulary = definition.vocabulary;
  read_special_id(file, config, "bos_token", vocabulary, definition.bos_id);
  read_special_id(file, config, "eos_token", vocabulary, definition.eos_id);
  read_special_id(file, config, "pad_token", vocabulary, definition.pad_id);
}

void read_vocab_size(const fs::path& file, TokenizerDefinition& definition) {
  const Json config = load_object(file);
  if (config.is_null()) {
    return;
  }
  const Json* holder = &config;
  if (!config.contains("vocab_size") && config.contains("text_config") &&
      config["text_config"].is_object()) {
    holder = &config["text_config"];
  }
  const auto size = holder->find("vocab_size");
  if (size == holder->end() || size->is_null()) {
    return;
  }
  if (!size->is_number_unsigned() ||
      size->get<std::uint64_t>() > std::uint64_t{max_token_id} + 1) {
    throw FieldError(
        file,
        "vocab_size",
        "expected a number of tokens, found " + size->dump());
  }
  definition.min_id_limit = size->get<TokenId>();
}

} // namespace

void add_token(
    const fs::path& file,
    const std::string& field,
    AddedToken token,
    TokenizerDefinition& definition) {
  if (token.content.empty() || token.content.size() > max_added_token_bytes) {
    throw FieldError(
        file,
        field + ".content",
        "expected 1 to " + std::to_string(max_added_token_bytes) +
            " bytes, found " + std::to_string(token.content.size()));
  }
  Vocabulary& vocabulary = definition.vocabulary;
  // A token of the model may be an added token as well, under the same id.
  if (vocabulary.find_token(token.content) != token.id) {
    switch (vocabulary.add_outside_model(token.content, token.id)) {
    case Vocabulary::Insert::done:
      break;
    case Vocabulary::Insert::duplicate_id:
      throw FieldError(
          file,
          field + ".id",
          "id " + std::to_string(token.id) + " is already that of " +
              json::quote(vocabulary.token(token.id)));
    case Vocabulary::Insert::duplicate_token:
      throw FieldError(
          file,
          field + ".content",
          json::quote(token.content) + " already has another id");
    }
  }
  if (is_added(definition, token.id)) {
    throw FieldError(
        file, field, json::quote(token.content) + " is added twice");
  }
  definition.is_added.resize(
      std::max<std::size_t>(definition.is_added.size(), token.id + 1));
  definition.is_added[token.id] = true;
  definition.added_tokens.push_back(std::move(token));
}

void apply_config_files(
    const fs::path& folder,
    TokenizerDefinition& definition) {
  const auto config_file = folder / "tokenizer_config.json";
  const auto map_file = folder / "special_tokens_map.json";
  const Json config = load_object(config_file);
  if (!config.is_null()) {
    read_added_tokens_decoder(config_file, config, definition);
  }
  read_added_tokens(folder / "added_tokens.json", definition);
  read_special_ids(config_file, config, definition);
  read_special_ids(map_file, load_object(map_file), definition);
  read_vocab_size(folder / "config.json", definition);
}

} // namespace qwen3_mlx
