// SPDX-License-Identifier: MIT
// A tokenizer.json small enough to read: the bytes, a few merges, and added
// tokens of every kind. Tests change one value and see what happens.
#pragma once

#include <cstdint>
#include <string>

#include <nlohmann/json.hpp>

#include "qwen3_mlx/tokenizer.h"
#include "testing/temp_dir.h"
#include "tokenizer/byte_level.h"

namespace qwen3_mlx::testing {

using Json = nlohmann::json;

inline const std::string qwen2_split =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N})"
    R"(| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

inline Json byte_level_json(bool use_regex = false) {
  return {
      {"type", "ByteLevel"},
      {"add_prefix_space", false},
      {"trim_offsets", false},
      {"use_regex", use_regex}};
}

inline Json split_json(const std::string& regex) {
  return {
      {"type", "Split"},
      {"pattern", {{"Regex", regex}}},
      {"behavior", "Isolated"},
      {"invert", false}};
}

inline Json added_token_json(
    std::uint32_t id,
    const std::string& content,
    bool special = true) {
  return {
      {"id", id},
      {"content", content},
      {"single_word", false},
      {"lstrip", false},
      {"rstrip", false},
      {"normalized", false},
      {"special", special}};
}

/// Ids 0 to 255 are the bytes; then "he", "ll", "hell", "hello", " hello";
/// then the added <|end|> (special) and <think> (not).
inline Json tiny_tokenizer_json() {
  Json vocab = Json::object();
  for (int byte = 0; byte < 256; ++byte) {
    const char value = static_cast<char>(byte);
    vocab[spell_bytes({&value, 1})] = byte;
  }
  const std::string space = spell_bytes(" ");
  vocab["he"] = 256;
  vocab["ll"] = 257;
  vocab["hell"] = 258;
  vocab["hello"] = 259;
  vocab[space + "hello"] = 260;
  const Json merges = {"h e", "l l", "he ll", "hell o", space + " hello"};
  return {
      {"version", "1.0"},
      {"truncation", nullptr},
      {"added_tokens",
       {added_token_json(261, "<|end|>"),
        added_token_json(262, "<think>", /* special */ false)}},
      {"normalizer", {{"type", "NFC"}}},
      {"pre_tokenizer",
       {{"type", "Sequence"},
        {"pretokenizers", {split_json(qwen2_split), byte_level_json()}}}},
      {"post_processor", byte_level_json()},
      {"decoder", byte_level_json()},
      {"model",
       {{"type", "BPE"},
        {"dropout", nullptr},
        {"unk_token", nullptr},
        {"byte_fallback", false},
        {"vocab", vocab},
        {"merges", merges}}}};
}

inline Tokenizer load(const Json& json) {
  const TempDir dir;
  dir.write("tokenizer.json", json.dump());
  return load_tokenizer(dir.path());
}

} // namespace qwen3_mlx::testing
