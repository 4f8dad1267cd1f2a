// SPDX-License-Identifier: MIT
// Any bytes as a tokenizer.json either load, and then encode and decode, or are
// an Error, and the fast reader of large files agrees with the plain one. Input
// that is not JSON by itself is put into a valid file at a place its first byte
// picks, so that runs get past the first check.
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <string_view>

#include "qwen3_mlx/error.h"
#include "qwen3_mlx/tokenizer.h"
#include "tokenizer/definition.h"
#include "tokenizer/loaders.h"

namespace {

struct Slot {
  std::string_view key;
  std::string_view value; // Of a file that loads.
};

constexpr std::array<Slot, 7> slots{{
    {"\"added_tokens\"", "[{\"id\":9,\"content\":\"<x>\",\"special\":true}]"},
    {"\"normalizer\"", "{\"type\":\"NFC\"}"},
    {"\"pre_tokenizer\"", "{\"type\":\"ByteLevel\",\"use_regex\":true}"},
    {"\"post_processor\"", "null"},
    {"\"decoder\"", "{\"type\":\"ByteLevel\"}"},
    {"\"version\"", "\"1.0\""},
    {"\"model\"",
     "{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},"
     "\"merges\":[\"a b\"]}"},
}};

std::string wrap(std::string_view input) {
  if (input.empty() || input.front() == '{') {
    return std::string(input);
  }
  const auto changed = static_cast<std::uint8_t>(input.front()) % slots.size();
  std::string text;
  for (std::size_t idx = 0; idx < slots.size(); ++idx) {
    text += text.empty() ? '{' : ',';
    text += slots[idx].key;
    text += ':';
    text += idx == changed ? input.substr(1) : slots[idx].value;
  }
  return text + '}';
}

using Parse = qwen3_mlx::TokenizerDefinition (*)(
    const std::filesystem::path&,
    std::string_view);

/// What comes of a file: ids of the file's own text and their text, or an
/// error.
std::string load(Parse parse, const std::string& text) {
  std::string result;
  try {
    const auto tokenizer = qwen3_mlx::make_tokenizer(parse("fuzz.json", text));
    const auto ids = tokenizer.encode(
        text, {.add_special_tokens = true, .parse_special = true});
    for (const auto id : ids) {
      if (!tokenizer.id_to_token(id)) {
        std::abort();
      }
      result += std::to_string(id) + ' ';
    }
    result += tokenizer.decode(ids);
  } catch (const qwen3_mlx::Error& error) {
    result = error.what();
  }
  return result;
}

} // namespace

extern "C" int
LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const std::string text = wrap(input);
  if (load(qwen3_mlx::parse_tokenizer_json, text) !=
      load(qwen3_mlx::parse_tokenizer_json_plainly, text)) {
    std::abort();
  }
  return 0;
}
