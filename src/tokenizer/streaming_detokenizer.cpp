// SPDX-License-Identifier: MIT
#include <utility>

#include "base/utf8.h"
#include "qwen3_mlx/tokenizer.h"

namespace qwen3_mlx {

StreamingDetokenizer::StreamingDetokenizer(
    Tokenizer tokenizer,
    bool skip_special_tokens)
    : tokenizer_(std::move(tokenizer)),
      skip_special_tokens_(skip_special_tokens) {}

std::string StreamingDetokenizer::add(std::uint32_t id) {
  const std::string_view bytes = tokenizer_.token_bytes(id);
  if (skip_special_tokens_ && tokenizer_.is_special(id)) {
    return {};
  }
  pending_ += bytes;
  // Bytes that are invalid whatever follows are replaced now; only an open
  // sequence at the end waits.
  const auto size = complete_utf8_prefix(pending_);
  auto text = replace_invalid_utf8(std::string_view(pending_).substr(0, size));
  pending_.erase(0, size);
  return text;
}

std::string StreamingDetokenizer::finish() {
  return replace_invalid_utf8(std::exchange(pending_, {}));
}

} // namespace qwen3_mlx
