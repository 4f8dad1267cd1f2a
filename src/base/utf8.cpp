// SPDX-License-Identifier: MIT
#include "base/utf8.h"

#include <algorithm>

namespace qwen3_mlx {

Utf8Step decode_utf8(std::string_view text) {
  const auto byte = [&](std::size_t idx) {
    return static_cast<std::uint8_t>(text[idx]);
  };
  const std::uint8_t lead = byte(0);
  if (lead < 0x80) {
    return {lead, 1, true, false};
  }
  // Bounds of the second byte exclude overlong forms, surrogates and values
  // past U+10FFFF.
  std::uint8_t length = 0;
  std::uint8_t low = 0x80;
  std::uint8_t high = 0xBF;
  if (lead >= 0xC2 && lead <= 0xDF) {
    length = 2;
  } else if (lead >= 0xE0 && lead <= 0xEF) {
    length = 3;
    low = lead == 0xE0 ? 0xA0 : 0x80;
    high = lead == 0xED ? 0x9F : 0xBF;
  } else if (lead >= 0xF0 && lead <= 0xF4) {
    length = 4;
    low = lead == 0xF0 ? 0x90 : 0x80;
    high = lead == 0xF4 ? 0x8F : 0xBF;
  } else {
    return {replacement_character, 1, false, false};
  }
  char32_t code_point = lead & (0xFFu >> (length + 1));
  for (std::uint8_t idx = 1; idx < length; ++idx) {
    if (idx >= text.size()) {
      return {replacement_character, idx, false, true};
    }
    if (byte(idx) < low || byte(idx) > high) {
      return {replacement_character, idx, false, false};
    }
    code_point = (code_point << 6) | (byte(idx) & 0x3Fu);
    low = 0x80;
    high = 0xBF;
  }
  return {code_point, length, true, false};
}

void append_utf8(std::string& out, char32_t code_point) {
  const auto push = [&](char32_t byte) { out += static_cast<char>(byte); };
  if (code_point < 0x80) {
    push(code_point);
  } else if (code_point < 0x800) {
    push(0xC0 | (code_point >> 6));
    push(0x80 | (code_point & 0x3F));
  } else if (code_point < 0x10000) {
    push(0xE0 | (code_point >> 12));
    push(0x80 | ((code_point >> 6) & 0x3F));
    push(0x80 | (code_point & 0x3F));
  } else {
    push(0xF0 | (code_point >> 18));
    push(0x80 | ((code_point >> 12) & 0x3F));
    push(0x80 | ((code_point >> 6) & 0x3F));
    push(0x80 | (code_point & 0x3F));
  }
}

bool is_valid_utf8(std::string_view text) {
  while (!text.empty()) {
    const auto step = decode_utf8(text);
    if (!step.valid) {
      return false;
    }
    text.remove_prefix(step.n_bytes);
  }
  return true;
}

std::string replace_invalid_utf8(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    const auto step = decode_utf8(text);
    if (step.valid) {
      out.append(text.substr(0, step.n_bytes));
    } else {
      append_utf8(out, replacement_character);
    }
    text.remove_prefix(step.n_bytes);
  }
  return out;
}

std::size_t complete_utf8_prefix(std::string_view text) {
  // A sequence has at most four bytes, so only the last three can be open.
  const auto first = text.size() - std::min<std::size_t>(text.size(), 3);
  for (std::size_t start = first; start < text.size(); ++start) {
    const auto byte = static_cast<std::uint8_t>(text[start]);
    if (byte >= 0xC2 && byte <= 0xF4) {
      const auto step = decode_utf8(text.substr(start));
      if (step.incomplete && start + step.n_bytes == text.size()) {
        return start;
      }
    }
  }
  return text.size();
}

} // namespace qwen3_mlx
