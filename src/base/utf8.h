// SPDX-License-Identifier: MIT
// UTF-8 as the Unicode standard (table 3-7) defines it: decoding, encoding, and
// replacement of what is not valid.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace qwen3_mlx {

inline constexpr char32_t replacement_character = 0xFFFD;

/// One step of decoding.
struct Utf8Step {
  char32_t code_point;  ///< replacement_character when the bytes are invalid.
  std::uint8_t n_bytes; ///< Bytes consumed, at least 1.
  bool valid;
  /// The text ended inside a sequence that more bytes could complete.
  bool incomplete;
};

/// Decodes the sequence at the start of `text`, which must not be empty. An
/// invalid sequence consumes its maximal subpart, as Python's
/// errors="replace" does.
Utf8Step decode_utf8(std::string_view text);

/// Appends `code_point`, which must be a Unicode scalar value.
void append_utf8(std::string& out, char32_t code_point);

bool is_valid_utf8(std::string_view text);

/// `text` with each maximal invalid subpart replaced by U+FFFD.
std::string replace_invalid_utf8(std::string_view text);

/// Length of the longest prefix of `text` that does not end inside a sequence
/// which more bytes could still complete.
std::size_t complete_utf8_prefix(std::string_view text);

} // namespace qwen3_mlx
