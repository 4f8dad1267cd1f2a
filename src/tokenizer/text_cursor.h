// SPDX-License-Identifier: MIT
// Decoding of text that is known to be valid UTF-8: no checks, so it must only
// be used behind one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "tokenizer/unicode_tables.h"

namespace qwen3_mlx {

struct Char {
  char32_t code_point;
  std::size_t n_bytes;
};

/// The character at `pos` of valid UTF-8.
inline Char char_at(const char* text, std::size_t pos) {
  const auto byte = [&](std::size_t idx) {
    return static_cast<char32_t>(static_cast<std::uint8_t>(text[pos + idx]));
  };
  const char32_t lead = byte(0);
  if (lead < 0x80) {
    return {lead, 1};
  }
  if (lead < 0xE0) {
    return {((lead & 0x1F) << 6) | (byte(1) & 0x3F), 2};
  }
  if (lead < 0xF0) {
    return {
        ((lead & 0x0F) << 12) | ((byte(1) & 0x3F) << 6) | (byte(2) & 0x3F), 3};
  }
  return {
      ((lead & 0x07) << 18) | ((byte(1) & 0x3F) << 12) |
          ((byte(2) & 0x3F) << 6) | (byte(3) & 0x3F),
      4};
}

/// Start of the character that ends before `pos` > 0.
inline std::size_t char_start_before(const char* text, std::size_t pos) {
  --pos;
  while ((static_cast<std::uint8_t>(text[pos]) & 0xC0) == 0x80) {
    --pos;
  }
  return pos;
}

} // namespace qwen3_mlx
