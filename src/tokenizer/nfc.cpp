// SPDX-License-Identifier: MIT
// Only stretches around characters that NFC can change are decomposed and
// composed; everything between them is copied. The tables are of the Unicode
// version that Python `tokenizers` has, which is why this is not a library's.
#include "tokenizer/nfc.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <iterator>
#include <vector>

#include "base/utf8.h"
#include "tokenizer/text_cursor.h"
#include "tokenizer/unicode_tables.h"

namespace qwen3_mlx {
namespace {

// Hangul syllables are arithmetic (Unicode standard, section 3.12).
constexpr char32_t hangul_base = 0xAC00;
constexpr char32_t hangul_end = 0xD7A4;
constexpr char32_t lead_base = 0x1100;
constexpr char32_t vowel_base = 0x1161;
constexpr char32_t tail_base = 0x11A7;
constexpr char32_t num_leads = 19;
constexpr char32_t num_vowels = 21;
constexpr char32_t num_tails = 28;

struct Symbol {
  char32_t code_point;
  std::uint8_t combining_class;
};

std::uint8_t combining_class(char32_t code_point) {
  const auto* last = std::end(unicode::combining_classes);
  const auto* found = std::lower_bound(
      std::begin(unicode::combining_classes),
      last,
      code_point,
      [](const unicode::CombiningClass& entry, char32_t value) {
        return entry.code_point < value;
      });
  return found != last && found->code_point == code_point ? found->value : 0;
}

void decompose(char32_t code_point, std::vector<Symbol>& out) {
  if (code_point >= hangul_base && code_point < hangul_end) {
    const char32_t idx = code_point - hangul_base;
    out.push_back({lead_base + idx / (num_vowels * num_tails), 0});
    out.push_back({vowel_base + idx / num_tails % num_vowels, 0});
    if (idx % num_tails != 0) {
      out.push_back({tail_base + idx % num_tails, 0});
    }
    return;
  }
  const auto* last = std::end(unicode::decompositions);
  const auto* found = std::lower_bound(
      std::begin(unicode::decompositions),
      last,
      code_point,
      [](const unicode::Decomposition& entry, char32_t value) {
        return entry.code_point < value;
      });
  if (found == last || found->code_point != code_point) {
    out.push_back({code_point, combining_class(code_point)});
    return;
  }
  for (std::size_t idx = 0; idx < found->size; ++idx) {
    const auto part = unicode::decomposition_pool[found->offset + idx];
    out.push_back({part, combining_class(part)});
  }
}

/// The composition of two code points, or 0.
char32_t compose(char32_t first, char32_t second) {
  if (first - lead_base < num_leads && second - vowel_base < num_vowels) {
    return hangul_base +
        ((first - lead_base) * num_vowels + (second - vowel_base)) * num_tails;
  }
  if (first >= hangul_base && first < hangul_end &&
      (first - hangul_base) % num_tails == 0 && second > tail_base &&
      second < tail_base + num_tails) {
    return first + (second - tail_base);
  }
  const std::array<char32_t, 2> key{first, second};
  const auto* last = std::end(unicode::compositions);
  const auto* found = std::lower_bound(
      std::begin(unicode::compositions),
      last,
      key,
      [](const unicode::Composition& entry, const auto& value) {
        return std::array<char32_t, 2>{entry.first, entry.second} < value;
      });
  return found != last && found->first == first && found->second == second
      ? found->composed
      : 0;
}

void sort_marks(std::vector<Symbol>& symbols) {
  const auto is_starter = [](const Symbol& symbol) {
    return symbol.combining_class == 0;
  };
  auto first = symbols.begin();
  while (first != symbols.end()) {
    first = std::find_if_not(first, symbols.end(), is_starter);
    const auto last = std::find_if(first, symbols.end(), is_starter);
    std::stable_sort(first, last, [](const Symbol& a, const Symbol& b) {
      return a.combining_class < b.combining_class;
    });
    first = last;
  }
}

/// Composes in place: a mark joins the last starter unless a mark of the same
/// or a higher class stands between them.
void compose_all(std::vector<Symbol>& symbols) {
  std::size_t size = 0;
  std::size_t starter = symbols.size();
  for (const Symbol symbol : symbols) {
    if (starter < size) {
      const bool adjacent = starter + 1 == size;
      const bool blocked = !adjacent &&
          (symbols[size - 1].combining_class == 0 ||
           symbols[size - 1].combining_class >= symbol.combining_class);
      const char32_t composed =
          blocked ? 0 : compose(symbols[starter].code_point, symbol.code_point);
      if (composed != 0) {
        symbols[starter].code_point = composed;
        continue;
      }
    }
    if (symbol.combining_class == 0) {
      starter = size;
    }
    symbols[size++] = symbol;
  }
  symbols.resize(size);
}

bool is_active(char32_t code_point) {
  return (unicode::properties(code_point) & unicode::nfc_active_bit) != 0;
}

/// Position of the first character that NFC may change, or text.size().
std::size_t find_active(std::string_view text, std::size_t pos) {
  // Lead bytes below CC encode code points below U+0300, all inert; E4 to E9
  // encode U+4000 to U+9FFF, inert ideographs.
  while (pos < text.size()) {
    const auto lead = static_cast<std::uint8_t>(text[pos]);
    if (lead < 0x80) {
      ++pos;
      while (pos + 8 <= text.size()) {
        std::uint64_t word = 0;
        std::copy_n(text.data() + pos, 8, reinterpret_cast<char*>(&word));
        if ((word & 0x8080808080808080u) != 0) {
          break;
        }
        pos += 8;
      }
    } else if (lead < 0xCC) {
      pos += 2;
    } else if (lead >= 0xE4 && lead <= 0xE9) {
      pos += 3;
    } else {
      const Char next = char_at(text.data(), pos);
      if (is_active(next.code_point)) {
        return pos;
      }
      pos += next.n_bytes;
    }
  }
  return pos;
}

} // namespace

std::optional<std::string> to_nfc(std::string_view text) {
  std::size_t active = find_active(text, 0);
  if (active == text.size()) {
    return std::nullopt;
  }
  std::string out;
  out.reserve(text.size());
  std::vector<Symbol> symbols;
  std::size_t copied = 0;
  while (active < text.size()) {
    // The character before may compose with it. It is inert itself, so it
    // takes no part in what lies further left.
    const auto start =
        active > copied ? char_start_before(text.data(), active) : active;
    out.append(text.substr(copied, start - copied));
    symbols.clear();
    std::size_t pos = start;
    while (pos < text.size()) {
      const Char next = char_at(text.data(), pos);
      if (pos > active && !is_active(next.code_point)) {
        break;
      }
      decompose(next.code_point, symbols);
      pos += next.n_bytes;
    }
    sort_marks(symbols);
    compose_all(symbols);
    for (const Symbol& symbol : symbols) {
      append_utf8(out, symbol.code_point);
    }
    copied = pos;
    active = find_active(text, pos);
  }
  out.append(text.substr(copied));
  return out;
}

} // namespace qwen3_mlx
