// SPDX-License-Identifier: MIT
#include "convert/gguf_side_files.h"

#include <array>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>

#include "base/utf8.h"
#include "qwen3_mlx/error.h"
#include "qwen3_mlx/tokenizer.h"
#include "tokenizer/split_regexes.h"

namespace qwen3_mlx {
namespace {

using Json = nlohmann::json;

// tokenizer.ggml.token_type, of which the others are plain.
constexpr std::int64_t type_control = 3;
constexpr std::int64_t type_user_defined = 4;
constexpr std::int64_t type_unused = 5;

Json byte_level(bool use_regex) {
  return {
      {"type", "ByteLevel"},
      {"add_prefix_space", false},
      {"trim_offsets", false},
      {"use_regex", use_regex}};
}

Json sequence(Json first) {
  return {
      {"type", "Sequence"},
      {"pretokenizers", Json::array({std::move(first), byte_level(false)})}};
}

Json split(std::string_view regex) {
  return {
      {"type", "Split"},
      {"pattern", {{"Regex", regex}}},
      {"behavior", "Isolated"},
      {"invert", false}};
}

/// Of a family that load_tokenizer() knows.
Json pre_tokenizer(std::string_view family) {
  if (family == "smollm") {
    Json digits = {{"type", "Digits"}, {"individual_digits", true}};
    auto both = sequence(std::move(digits));
    both["pretokenizers"][1]["use_regex"] = true;
    return both;
  }
  if (family == "gpt-2") {
    return byte_level(true);
  }
  if (family == "qwen35") {
    return sequence(split(split_regex::qwen35));
  }
  const bool is_llama3 = family.starts_with("llama");
  return sequence(split(is_llama3 ? split_regex::llama3 : split_regex::qwen2));
}

Json added_token(std::size_t id, const std::string& content, bool special) {
  return {
      {"id", id},
      {"content", content},
      {"single_word", false},
      {"lstrip", false},
      {"rstrip", false},
      {"normalized", false},
      {"special", special}};
}

/// What puts bos before a text and eos behind it.
Json template_processing(const Tokenizer& tokenizer) {
  const auto around = tokenizer.encode("", {.add_special_tokens = true});
  if (around.empty()) {
    return byte_level(true);
  }
  Json single = Json::array();
  Json tokens = Json::object();
  const auto add = [&](std::uint32_t id) {
    const auto token = tokenizer.id_to_token(id).value_or("");
    single.push_back({{"SpecialToken", {{"id", token}, {"type_id", 0}}}});
    tokens[token] = {{"id", token}, {"ids", {id}}, {"tokens", {token}}};
  };
  const auto bos = tokenizer.bos_id();
  const bool has_bos = bos && around.front() == *bos;
  if (has_bos) {
    add(*bos);
  }
  single.push_back({{"Sequence", {{"id", "A"}, {"type_id", 0}}}});
  if (around.size() > (has_bos ? 1u : 0u)) {
    add(around.back());
  }
  return {
      {"type", "TemplateProcessing"},
      {"single", single},
      {"pair", single},
      {"special_tokens", tokens}};
}

Json tokenizer_json(const GgufFile& file, const Tokenizer& tokenizer) {
  const auto& tokens = *file.get_strings("tokenizer.ggml.tokens");
  const auto types = file.get_ints("tokenizer.ggml.token_type");
  const auto family = file.get_string("tokenizer.ggml.pre").value_or("");
  Json vocab = Json::object();
  Json added = Json::array();
  for (std::size_t idx = 0; idx < tokens.size(); ++idx) {
    const auto type = types ? (*types)[idx] : 0;
    if (type == type_unused) {
      continue;
    }
    const auto token = replace_invalid_utf8(tokens[idx]);
    vocab[token] = idx;
    if (type == type_control || type == type_user_defined) {
      added.push_back(added_token(idx, token, type == type_control));
    }
  }
  Json merges = Json::array();
  for (const auto& merge : *file.get_strings("tokenizer.ggml.merges")) {
    merges.push_back(merge);
  }
  const bool is_llama3 = family.starts_with("llama");
  const bool has_nfc = !is_llama3 && family != "smollm" && family != "gpt-2";
  return {
      {"version", "1.0"},
      {"truncation", nullptr},
      {"padding", nullptr},
      {"added_tokens", added},
      {"normalizer", has_nfc ? Json({{"type", "NFC"}}) : Json(nullptr)},
      {"pre_tokenizer", pre_tokenizer(family)},
      {"post_processor", template_processing(tokenizer)},
      {"decoder", byte_level(true)},
      {"model",
       {{"type", "BPE"},
        {"dropout", nullptr},
        {"unk_token", nullptr},
        {"continuing_subword_prefix", nullptr},
        {"end_of_word_suffix", nullptr},
        {"fuse_unk", false},
        {"byte_fallback", false},
        {"ignore_merges", is_llama3},
        {"vocab", vocab},
        {"merges", merges}}}};
}

Json tokenizer_config(const GgufFile& file, const Tokenizer& tokenizer) {
  Json json = {
      {"tokenizer_class", "PreTrainedTokenizerFast"},
      {"clean_up_tokenization_spaces", false}};
  const std::array<std::pair<const char*, std::optional<std::uint32_t>>, 3> ids{
      {{"bos_token", tokenizer.bos_id()},
       {"eos_token", tokenizer.eos_id()},
       {"pad_token", tokenizer.pad_id()}}};
  for (const auto& [name, id] : ids) {
    if (id) {
      json[name] = tokenizer.id_to_token(*id).value_or("");
    }
  }
  if (const auto text = file.get_string("tokenizer.chat_template")) {
    json["chat_template"] = replace_invalid_utf8(*text);
  }
  return json;
}

} // namespace

void write_gguf_side_files(
    const GgufFile& file,
    const ModelArgs& args,
    StagedDirectory& to) {
  Json generation = Json::object();
  if (args.bos_token_id) {
    generation["bos_token_id"] = *args.bos_token_id;
  }
  if (!args.eos_token_ids.empty()) {
    generation["eos_token_id"] = args.eos_token_ids;
  }
  to.write_file("generation_config.json", generation.dump(2) + "\n");
  if (!file.has("tokenizer.ggml.model")) {
    return;
  }
  const auto tokenizer = load_tokenizer(file.path());
  to.write_file(
      "tokenizer.json", tokenizer_json(file, tokenizer).dump(1) + "\n");
  to.write_file(
      "tokenizer_config.json",
      tokenizer_config(file, tokenizer).dump(2) + "\n");
}

} // namespace qwen3_mlx
