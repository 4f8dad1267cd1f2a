// SPDX-License-Identifier: MIT
// The split regexes of known byte-level BPE tokenizers, as code: each function
// returns where the piece ends that the regex matches at a position. Text is
// valid UTF-8, and `end` is the end of text to the regex.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "tokenizer/letter_run.h"
#include "tokenizer/text_cursor.h"
#include "tokenizer/unicode_tables.h"

namespace qwen3_mlx::split {

using unicode::CharClass;

struct Classified {
  CharClass kind;
  std::size_t n_bytes;
};

constexpr std::array<CharClass, 128> make_ascii_classes() {
  std::array<CharClass, 128> classes{};
  for (std::size_t value = 0; value < classes.size(); ++value) {
    if ((value | 0x20) >= 'a' && (value | 0x20) <= 'z') {
      classes[value] = CharClass::Letter;
    } else if (value >= '0' && value <= '9') {
      classes[value] = CharClass::Number;
    } else if (value == '\r' || value == '\n') {
      classes[value] = CharClass::Newline;
    } else if (value == ' ' || (value >= 0x9 && value <= 0xC)) {
      classes[value] = CharClass::Space;
    }
  }
  return classes;
}
inline constexpr auto ascii_classes = make_ascii_classes();

inline Classified classify(const char* text, std::size_t pos) {
  const auto lead = static_cast<std::uint8_t>(text[pos]);
  if (lead < 0x80) {
    return {ascii_classes[lead], 1};
  }
  const Char next = char_at(text, pos);
  return {unicode::char_class(next.code_point), next.n_bytes};
}

/// The end of the run of characters from `pos` on that `belongs` accepts.
template <typename Belongs>
std::size_t
run_end(const char* text, std::size_t pos, std::size_t end, Belongs belongs) {
  while (pos < end) {
    const Classified next = classify(text, pos);
    if (!belongs(next.kind)) {
      break;
    }
    pos += next.n_bytes;
  }
  return pos;
}

inline bool is_white_space(CharClass kind) {
  return kind == CharClass::Space || kind == CharClass::Newline;
}

/// End of the contraction 's 't 're 've 'm 'll 'd at an apostrophe, or 0.
inline std::size_t contraction_end(
    const char* text,
    std::size_t pos,
    std::size_t end,
    bool ignore_case) {
  const char case_bit = ignore_case ? 0x20 : 0;
  const auto letter = [&](std::size_t idx) {
    // Only letters may be folded: '@' | 0x20 is no letter either.
    return pos + idx < end ? static_cast<char>(text[pos + idx] | case_bit)
                           : '\0';
  };
  switch (letter(1)) {
  case 's':
  case 't':
  case 'm':
  case 'd':
    return pos + 2;
  case 'r':
  case 'v':
    return letter(2) == 'e' ? pos + 3 : 0;
  case 'l':
    return letter(2) == 'l' ? pos + 3 : 0;
  default:
    // U+017F, the long s, is an s to a regex that ignores case.
    return ignore_case && pos + 2 < end && text[pos + 1] == '\xC5' &&
            text[pos + 2] == '\xBF'
        ? pos + 3
        : 0;
  }
}

/// \s+(?!\S)|\s+ at white space; with `newlines_first`, \s*[\r\n]+ before.
inline std::size_t white_space_end(
    const char* text,
    std::size_t pos,
    std::size_t end,
    bool newlines_first) {
  std::size_t last_start = pos;
  std::size_t newline_end = 0;
  std::size_t at = pos;
  while (at < end) {
    const Classified next = classify(text, at);
    if (!is_white_space(next.kind)) {
      break;
    }
    last_start = at;
    at += next.n_bytes;
    if (next.kind == CharClass::Newline) {
      newline_end = at;
    }
  }
  if (newlines_first && newline_end != 0) {
    return newline_end;
  }
  // The look-ahead gives one character back to the word behind it.
  return at == end || last_start == pos ? at : last_start;
}

/// The family of Qwen2, Qwen3.5 and Llama-3 (cl100k):
///   (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,max_digits}
///   | ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
/// where marks_join_words puts [\p{L}\p{M}] for \p{L} but in the first class.
template <bool marks_join_words, std::size_t max_digits>
struct QwenFamily {
  static bool in_word(CharClass kind) {
    return kind == CharClass::Letter ||
        (marks_join_words && kind == CharClass::Mark);
  }
  static bool in_punctuation(CharClass kind) {
    return kind == CharClass::Other ||
        (!marks_join_words && kind == CharClass::Mark);
  }

  static std::size_t
  word_end(const char* text, std::size_t pos, std::size_t end) {
    while (true) {
      pos = skip_ascii_letters(text, pos, end);
      if (pos >= end || static_cast<std::uint8_t>(text[pos]) < 0x80) {
        return pos;
      }
      do {
        const Char next = char_at(text, pos);
        if (!in_word(unicode::char_class(next.code_point))) {
          return pos;
        }
        pos += next.n_bytes;
      } while (pos < end && static_cast<std::uint8_t>(text[pos]) >= 0x80);
    }
  }

  static std::size_t
  punctuation_end(const char* text, std::size_t pos, std::size_t end) {
    pos = run_end(text, pos, end, in_punctuation);
    while (pos < end && (text[pos] == '\r' || text[pos] == '\n')) {
      ++pos;
    }
    return pos;
  }

  static std::size_t
  piece_end(const char* text, std::size_t pos, std::size_t end) {
    const char first = text[pos];
    // Most pieces of most texts: a word, alone or behind a space.
    if (is_ascii_letter(first) ||
        (first == ' ' && pos + 1 < end && is_ascii_letter(text[pos + 1]))) {
      return word_end(text, pos + 1, end);
    }
    if (first == '\'') {
      if (const auto stop =
              contraction_end(text, pos, end, /* ignore_case */ true)) {
        return stop;
      }
    }
    const Classified head = classify(text, pos);
    const std::size_t next_pos = pos + head.n_bytes;
    if (in_word(head.kind)) {
      return word_end(text, next_pos, end);
    }
    if (head.kind == CharClass::Number) {
      std::size_t stop = next_pos;
      for (std::size_t count = 1; count < max_digits && stop < end; ++count) {
        const Classified next = classify(text, stop);
        if (next.kind != CharClass::Number) {
          break;
        }
        stop += next.n_bytes;
      }
      return stop;
    }
    if (head.kind == CharClass::Newline) {
      return white_space_end(text, pos, end, /* newlines_first */ true);
    }
    if (next_pos < end) {
      const Classified next = classify(text, next_pos);
      if (in_word(next.kind)) {
        return word_end(text, next_pos + next.n_bytes, end);
      }
      if (first == ' ' && in_punctuation(next.kind)) {
        return punctuation_end(text, next_pos, end);
      }
    }
    return head.kind == CharClass::Space
        ? white_space_end(text, pos, end, /* newlines_first */ true)
        : punctuation_end(text, pos, end);
  }
};

using Qwen2 = QwenFamily</* marks_join_words */ false, /* max_digits */ 1>;
using Qwen35 = QwenFamily</* marks_join_words */ true, /* max_digits */ 1>;
using Llama3 = QwenFamily</* marks_join_words */ false, /* max_digits */ 3>;

/// 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
struct Gpt2 {
  static CharClass group(CharClass kind) {
    return kind == CharClass::Mark ? CharClass::Other : kind;
  }

  static std::size_t
  piece_end(const char* text, std::size_t pos, std::size_t end) {
    if (text[pos] == '\'') {
      if (const auto stop =
              contraction_end(text, pos, end, /* ignore_case */ false)) {
        return stop;
      }
    }
    const std::size_t start = pos + (text[pos] == ' ' ? 1 : 0);
    if (start < end) {
      const CharClass kind = group(classify(text, start).kind);
      if (kind == CharClass::Letter) {
        return Qwen2::word_end(text, start, end);
      }
      if (!is_white_space(kind)) {
        return run_end(text, start, end, [&](CharClass next) {
          return group(next) == kind;
        });
      }
    }
    return white_space_end(text, pos, end, /* newlines_first */ false);
  }
};

/// Digits: numbers apart from the rest, one by one or as runs.
template <bool individual>
struct Digits {
  static std::size_t
  piece_end(const char* text, std::size_t pos, std::size_t end) {
    const auto is_number = [&](const Char& next) {
      return (unicode::properties(next.code_point) & unicode::numeric_bit) != 0;
    };
    const Char head = char_at(text, pos);
    const bool wanted = is_number(head);
    pos += head.n_bytes;
    while (pos < end && !(wanted && individual)) {
      const Char next = char_at(text, pos);
      if (is_number(next) != wanted) {
        break;
      }
      pos += next.n_bytes;
    }
    return pos;
  }
};

} // namespace qwen3_mlx::split
