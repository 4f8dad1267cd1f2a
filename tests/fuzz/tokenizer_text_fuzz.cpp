// SPDX-License-Identifier: MIT
// Any bytes encode, and decode to the text with broken UTF-8 replaced and NFC
// applied; any ids decode, streamed or at once, to the same.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "base/utf8.h"
#include "qwen3_mlx/error.h"
#include "qwen3_mlx/tokenizer.h"
#include "tokenizer/nfc.h"
#include "tokenizer/tiny_tokenizer.h"

namespace {

using qwen3_mlx::Tokenizer;
using qwen3_mlx::testing::Json;

void check(bool holds) {
  if (!holds) {
    std::abort();
  }
}

/// Tokenizers of each split pattern; the last without a normalizer, and with
/// added tokens of every flag.
std::vector<Tokenizer> make_tokenizers() {
  using namespace qwen3_mlx::testing;
  std::vector<Tokenizer> tokenizers;
  auto json = tiny_tokenizer_json();
  tokenizers.push_back(load(json));
  json["pre_tokenizer"] = {
      {"type", "Sequence"},
      {"pretokenizers",
       {{{"type", "Digits"}, {"individual_digits", true}},
        byte_level_json(/* use_regex */ true)}}};
  tokenizers.push_back(load(json));
  json["normalizer"] = nullptr;
  tokenizers.push_back(load(json));
  for (const char* content : {"<a", "<ab>", " x", "y ", "\n"}) {
    auto token = added_token_json(
        static_cast<std::uint32_t>(263 + json["added_tokens"].size()), content);
    const auto size = json["added_tokens"].size();
    token["lstrip"] = size % 2 == 0;
    token["rstrip"] = size % 3 == 0;
    token["single_word"] = size % 4 == 0;
    token["normalized"] = size % 5 == 0;
    json["added_tokens"].push_back(token);
  }
  tokenizers.push_back(load(json));
  return tokenizers;
}

} // namespace

extern "C" int
LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const std::vector<Tokenizer> tokenizers = make_tokenizers();
  const std::string text(reinterpret_cast<const char*>(data), size);
  const std::string valid = qwen3_mlx::replace_invalid_utf8(text);
  for (std::size_t idx = 0; idx < tokenizers.size(); ++idx) {
    const auto& tokenizer = tokenizers[idx];
    const auto ids = tokenizer.encode(text);
    const auto decoded = tokenizer.decode(ids);
    if (idx == 2) {
      check(decoded == valid);
    } else if (idx < 2 && valid.find('<') == std::string::npos) {
      check(decoded == qwen3_mlx::to_nfc(valid).value_or(valid));
    }
    check(tokenizer.encode_batch({&text, 1})[0] == ids);
  }
  // The bytes as ids, in and out of range.
  std::vector<std::uint32_t> ids;
  for (std::size_t pos = 0; pos + 1 < size; pos += 2) {
    ids.push_back(data[pos] + (data[pos + 1] % 8u == 0 ? 256u : 0u));
  }
  qwen3_mlx::StreamingDetokenizer stream(tokenizers[0], size % 2 == 0);
  try {
    const auto whole = tokenizers[0].decode(ids, size % 2 == 0);
    std::string pieces;
    for (const auto id : ids) {
      pieces += stream.add(id);
    }
    check(pieces + stream.finish() == whole);
  } catch (const qwen3_mlx::InvalidArgument&) {
  }
  return 0;
}
