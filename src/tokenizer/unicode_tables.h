// SPDX-License-Identifier: MIT
// Generated Unicode data (scripts/generate_unicode_tables.py) and its lookup.
#pragma once

#include <cstddef>
#include <cstdint>

namespace qwen3_mlx::unicode {

/// What the split patterns distinguish. Newline is CR and LF; Space is the
/// rest of \s.
enum class CharClass : std::uint8_t {
  Other,
  Letter,
  Mark,
  Number,
  Space,
  Newline
};

inline constexpr std::uint8_t class_mask = 7;
/// The code point may change under NFC, or change its neighbours.
inline constexpr std::uint8_t nfc_active_bit = 8;
/// \w of the single_word flag.
inline constexpr std::uint8_t word_bit = 16;
/// What the Digits step separates: numbers of Unicode 17, where the classes
/// are Unicode 16's.
inline constexpr std::uint8_t numeric_bit = 32;

struct CombiningClass {
  char32_t code_point;
  std::uint8_t value;
};
/// A full canonical decomposition: `size` code points of decomposition_pool.
struct Decomposition {
  char32_t code_point;
  std::uint16_t offset;
  std::uint16_t size;
};
struct Composition {
  char32_t first;
  char32_t second;
  char32_t composed;
};

// All sorted by code point. Hangul syllables are computed, not listed.
inline constexpr std::size_t block_size = 128;
extern const std::uint16_t block_index[0x110000 / block_size];
extern const std::uint8_t blocks[];
inline constexpr std::size_t num_combining_classes = 814;
extern const CombiningClass combining_classes[num_combining_classes];
extern const char32_t decomposition_pool[];
inline constexpr std::size_t num_decompositions = 2060;
extern const Decomposition decompositions[num_decompositions];
inline constexpr std::size_t num_compositions = 940;
extern const Composition compositions[num_compositions];

/// Class and bits of a code point, which must be below 0x110000.
inline std::uint8_t properties(char32_t code_point) {
  return blocks
      [block_index[code_point / block_size] * block_size +
       code_point % block_size];
}

inline CharClass char_class(char32_t code_point) {
  return static_cast<CharClass>(properties(code_point) & class_mask);
}

} // namespace qwen3_mlx::unicode
