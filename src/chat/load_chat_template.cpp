// SPDX-License-Identifier: MIT
// Where a model keeps its chat template and special tokens.
#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>

#include "base/file.h"
#include "chat/json_value.h"
#include "formats/gguf.h"
#include "qwen3_mlx/chat_template.h"
#include "qwen3_mlx/error.h"

namespace qwen3_mlx {

namespace {

namespace fs = std::filesystem;
using jinja::Dict;
using jinja::Value;
using Sources = std::map<std::string, std::string>;

constexpr std::uint64_t max_template_bytes = std::uint64_t{4} << 20;
// Some tokenizer_config.json files list every added token.
constexpr std::uint64_t max_config_bytes = std::uint64_t{64} << 20;

constexpr std::array<std::string_view, 7> token_names = {
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token"};

Value read_object(const fs::path& path) {
  std::string text = read_file(path, max_config_bytes);
  Value v;
  try {
    v = parse_json(text, "JSON");
  } catch (const InvalidArgument& e) {
    throw FileError(path, e.what());
  }
  if (!v.is_dict()) {
    throw FileError(path, "expected a JSON object, found " + v.type_name());
  }
  return v;
}

// A token is a string, or an object with the string as "content".
void add_token(
    SpecialTokens& tokens,
    const fs::path& path,
    const std::string& name,
    const Value& v) {
  const Value* text = &v;
  if (v.is_dict()) {
    text = v.as_dict().find("content");
  }
  if (v.is_none()) {
    return;
  }
  if (text == nullptr || !text->is_string()) {
    throw FieldError(path, name, "expected a string, found " + v.type_name());
  }
  tokens.emplace(name, text->as_string());
}

void add_tokens(
    SpecialTokens& tokens,
    const fs::path& path,
    const Dict& config) {
  for (std::string_view name : token_names) {
    if (const Value* v = config.find(name)) {
      add_token(tokens, path, std::string(name), *v);
    }
  }
  // Models may name further ones, such as "image_token".
  for (const char* field :
       {"extra_special_tokens", "model_specific_special_tokens"}) {
    const Value* more = config.find(field);
    if (more != nullptr && more->is_dict()) {
      for (const auto& [name, v] : more->as_dict().items()) {
        add_token(tokens, path, name.as_string(), v);
      }
    }
  }
}

// "chat_template": a string, or a list of {"name", "template"}.
Sources config_sources(const fs::path& path, const Dict& config) {
  const Value* v = config.find("chat_template");
  Sources out;
  if (v == nullptr || v->is_none()) {
    return out;
  }
  if (v->is_string()) {
    out["default"] = v->as_string();
    return out;
  }
  if (!v->is_list()) {
    throw FieldError(
        path,
        "chat_template",
        "expected a string or a list, found " + v->type_name());
  }
  std::size_t n = 0;
  for (const Value& item : v->items()) {
    std::string field = "chat_template[" + std::to_string(n++) + "]";
    const Value* name = item.is_dict() ? item.as_dict().find("name") : nullptr;
    const Value* text =
        item.is_dict() ? item.as_dict().find("template") : nullptr;
    if (name == nullptr || !name->is_string() || text == nullptr ||
        !text->is_string()) {
      throw FieldError(
          path, field, "expected an object with a name and a template");
    }
    out[name->as_string()] = text->as_string();
  }
  return out;
}

ChatTemplate make(Sources sources, SpecialTokens tokens, const fs::path& path) {
  if (sources.empty()) {
    return ChatTemplate::chatml(std::move(tokens));
  }
  if (!sources.contains("default")) {
    // transformers refuses to choose among named ones; so do we.
    std::string names;
    for (const auto& [name, source] : sources) {
      names += (names.empty() ? "" : ", ") + name;
    }
    throw FieldError(
        path,
        "chat_template",
        "none of the templates is named \"default\" (there are: " + names +
            "); give the one to use as a file of its own");
  }
  return ChatTemplate(sources, std::move(tokens), path.string());
}

ChatTemplate load_directory(const fs::path& directory) {
  SpecialTokens tokens;
  Sources sources;
  fs::path place = directory;
  fs::path config_path = directory / "tokenizer_config.json";
  if (fs::exists(config_path)) {
    Value config = read_object(config_path);
    add_tokens(tokens, config_path, config.as_dict());
    sources = config_sources(config_path, config.as_dict());
    place = config_path;
  }
  fs::path map_path = directory / "special_tokens_map.json";
  if (fs::exists(map_path)) {
    Value map = read_object(map_path);
    add_tokens(tokens, map_path, map.as_dict());
  }
  Sources files;
  fs::path template_path = directory / "chat_template.jinja";
  if (fs::exists(template_path)) {
    files["default"] = read_file(template_path, max_template_bytes);
  }
  fs::path more = directory / "additional_chat_templates";
  if (fs::is_directory(more)) {
    for (const fs::directory_entry& entry : fs::directory_iterator(more)) {
      if (entry.path().extension() == ".jinja") {
        files[entry.path().stem().string()] =
            read_file(entry.path(), max_template_bytes);
      }
    }
  }
  if (!files.empty()) {
    // As in transformers, template files replace what the config has.
    sources = std::move(files);
    place = template_path;
  }
  return make(std::move(sources), std::move(tokens), place);
}

ChatTemplate load_gguf(const fs::path& path) {
  GgufFile file(path);
  Sources sources;
  if (auto text = file.get_string("tokenizer.chat_template")) {
    sources["default"] = *text;
  }
  if (const auto* names = file.get_strings("tokenizer.chat_templates")) {
    for (const std::string& name : *names) {
      if (auto text = file.get_string("tokenizer.chat_template." + name)) {
        sources[name] = *text;
      }
    }
  }
  SpecialTokens tokens;
  const auto* texts = file.get_strings("tokenizer.ggml.tokens");
  constexpr std::array<std::pair<const char*, const char*>, 5> ids = {
      {{"bos_token", "tokenizer.ggml.bos_token_id"},
       {"eos_token", "tokenizer.ggml.eos_token_id"},
       {"unk_token", "tokenizer.ggml.unknown_token_id"},
       {"sep_token", "tokenizer.ggml.seperator_token_id"},
       {"pad_token", "tokenizer.ggml.padding_token_id"}}};
  for (const auto& [name, key] : ids) {
    auto id = file.get_uint(key);
    // Some writers say "none" as the largest number.
    if (!id || *id == std::numeric_limits<std::uint32_t>::max() ||
        texts == nullptr) {
      continue;
    }
    if (*id >= texts->size()) {
      throw FieldError(
          path,
          key,
          "expected an id below " + std::to_string(texts->size()) + ", found " +
              std::to_string(*id));
    }
    tokens[name] = (*texts)[static_cast<std::size_t>(*id)];
  }
  return make(std::move(sources), std::move(tokens), path);
}

} // namespace

ChatTemplate load_chat_template(const std::filesystem::path& path) {
  if (fs::is_directory(path)) {
    return load_directory(path);
  }
  if (is_gguf(path)) {
    return load_gguf(path);
  }
  if (path.extension() == ".json") {
    Value config = read_object(path);
    SpecialTokens tokens;
    add_tokens(tokens, path, config.as_dict());
    return make(
        config_sources(path, config.as_dict()), std::move(tokens), path);
  }
  return ChatTemplate(read_file(path, max_template_bytes), {}, path.string());
}

} // namespace qwen3_mlx
