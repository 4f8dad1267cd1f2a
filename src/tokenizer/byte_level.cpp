// SPDX-License-Identifier: MIT
#include "tokenizer/byte_level.h"

#include <array>
#include <cstddef>

#include "base/utf8.h"

namespace qwen3_mlx {
namespace {

constexpr bool stands_for_itself(std::size_t byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) ||
      byte >= 0xAE;
}

// Bytes that do not stand for themselves.
constexpr std::size_t num_others = 68;
constexpr std::size_t alphabet_end = 0x100 + num_others;

struct Alphabet {
  std::array<char32_t, 256> char_of_byte{};
  std::array<std::int16_t, alphabet_end> byte_of_char{};
};

constexpr Alphabet make_alphabet() {
  Alphabet alphabet;
  for (auto& byte : alphabet.byte_of_char) {
    byte = -1;
  }
  char32_t next = 0x100;
  for (std::size_t byte = 0; byte < 256; ++byte) {
    const char32_t value =
        stands_for_itself(byte) ? static_cast<char32_t>(byte) : next++;
    alphabet.char_of_byte[byte] = value;
    alphabet.byte_of_char[value] = static_cast<std::int16_t>(byte);
  }
  return alphabet;
}

constexpr Alphabet alphabet = make_alphabet();
static_assert(alphabet.char_of_byte[0x20] == 0x120);
static_assert(alphabet.byte_of_char.back() == 0xAD);

} // namespace

bool append_spelled_bytes(std::string_view token, std::string& out) {
  // A local buffer, since appending byte by byte to a string is slow.
  std::array<char, 256> buffer;
  std::size_t fill = 0;
  const auto size = out.size();
  for (std::size_t pos = 0; pos < token.size(); ++pos) {
    std::size_t code_point = static_cast<std::uint8_t>(token[pos]);
    if (code_point >= 0x80) {
      // The whole alphabet has one or two bytes in UTF-8.
      const std::size_t next =
          pos + 1 < token.size() ? static_cast<std::uint8_t>(token[++pos]) : 0;
      const bool is_pair =
          code_point >= 0xC2 && code_point <= 0xC5 && (next & 0xC0) == 0x80;
      code_point =
          is_pair ? (code_point & 0x1F) << 6 | (next & 0x3F) : alphabet_end;
    }
    const int byte =
        code_point < alphabet_end ? alphabet.byte_of_char[code_point] : -1;
    if (byte < 0) {
      out.resize(size);
      return false;
    }
    buffer[fill++] = static_cast<char>(byte);
    if (fill == buffer.size()) {
      out.append(buffer.data(), fill);
      fill = 0;
    }
  }
  out.append(buffer.data(), fill);
  return true;
}

std::string spell_bytes(std::string_view bytes) {
  std::string out;
  out.reserve(bytes.size() + bytes.size() / 2);
  for (const char byte : bytes) {
    append_utf8(out, alphabet.char_of_byte[static_cast<std::uint8_t>(byte)]);
  }
  return out;
}

} // namespace qwen3_mlx
