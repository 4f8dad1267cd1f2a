// SPDX-License-Identifier: MIT
#include "chat/jinja/text.h"

#include <algorithm>
#include <span>

#include <utf8proc.h>

#include "base/utf8.h"
#include "chat/jinja/special_casing.h"

namespace qwen3_mlx::jinja {

namespace {

utf8proc_category_t category(char32_t c) {
  return utf8proc_category(static_cast<utf8proc_int32_t>(c));
}

const SpecialCase*
find_special(std::span<const SpecialCase> table, char32_t c) {
  auto it = std::lower_bound(
      table.begin(), table.end(), c, [](const SpecialCase& s, char32_t key) {
        return s.from < key;
      });
  return it != table.end() && it->from == c ? &*it : nullptr;
}

char32_t simple(utf8proc_int32_t (*map)(utf8proc_int32_t), char32_t c) {
  return static_cast<char32_t>(map(static_cast<utf8proc_int32_t>(c)));
}

void append_upper(std::u32string& out, char32_t c) {
  if (const SpecialCase* s = find_special(special_upper, c)) {
    out += s->to;
  } else {
    out += simple(utf8proc_toupper, c);
  }
}

void append_title(std::u32string& out, char32_t c) {
  if (const SpecialCase* s = find_special(special_title, c)) {
    out += s->to;
  } else {
    out += simple(utf8proc_totitle, c);
  }
}

bool is_cased(char32_t c) {
  return is_upper(c) || is_lower(c) || is_title(c);
}

// Marks, modifiers and punctuation inside words do not end a word for the
// rule of the final sigma.
bool is_case_ignorable(char32_t c) {
  switch (category(c)) {
  case UTF8PROC_CATEGORY_MN:
  case UTF8PROC_CATEGORY_ME:
  case UTF8PROC_CATEGORY_CF:
  case UTF8PROC_CATEGORY_LM:
  case UTF8PROC_CATEGORY_SK:
    return true;
  default:
    return c == '\'' || c == '.' || c == ':' || c == 0xB7 || c == 0x387 ||
        c == 0x5F4 || c == 0x2018 || c == 0x2019 || c == 0x2024 ||
        c == 0x2027 || c == 0xFE13 || c == 0xFE52 || c == 0xFE55 ||
        c == 0xFF07 || c == 0xFF0E || c == 0xFF1A;
  }
}

bool is_final_sigma(std::u32string_view text, std::size_t n) {
  std::size_t before = n;
  while (before > 0 && is_case_ignorable(text[before - 1])) {
    --before;
  }
  if (before == 0 || !is_cased(text[before - 1])) {
    return false;
  }
  std::size_t after = n + 1;
  while (after < text.size() && is_case_ignorable(text[after])) {
    ++after;
  }
  return after == text.size() || !is_cased(text[after]);
}

void append_lower(
    std::u32string& out,
    std::u32string_view text,
    std::size_t n) {
  char32_t c = text[n];
  if (c == 0x3A3) { // Σ
    out += is_final_sigma(text, n) ? U'\u03C2' : U'\u03C3';
  } else if (c == 0x130) { // İ: the only one with two characters
    out += U"i\u0307";
  } else {
    out += simple(utf8proc_tolower, c);
  }
}

bool is_line_end(char32_t c) {
  return (c >= 0x0A && c <= 0x0D) || (c >= 0x1C && c <= 0x1E) || c == 0x85 ||
      c == 0x2028 || c == 0x2029;
}

// The last code point of a text that is not empty.
Utf8Step last_code_point(std::string_view text) {
  std::size_t n = text.size() - 1;
  while (n > 0 && (static_cast<unsigned char>(text[n]) & 0xC0) == 0x80) {
    --n;
  }
  return decode_utf8(text.substr(n));
}

template <class Pred>
std::string_view
strip_if(std::string_view text, Pred drop, bool left, bool right) {
  while (left && !text.empty()) {
    Utf8Step step = decode_utf8(text);
    if (!drop(step.code_point)) {
      break;
    }
    text.remove_prefix(step.n_bytes);
  }
  while (right && !text.empty()) {
    Utf8Step step = last_code_point(text);
    if (!drop(step.code_point)) {
      break;
    }
    text.remove_suffix(step.n_bytes);
  }
  return text;
}

std::vector<std::string_view>
split_space(std::string_view text, std::int64_t max_split, bool from_right) {
  std::vector<std::string_view> out;
  text = from_right ? rstrip_space(text) : lstrip_space(text);
  while (!text.empty()) {
    if (max_split >= 0 && static_cast<std::int64_t>(out.size()) == max_split) {
      out.push_back(from_right ? rstrip_space(text) : text);
      break;
    }
    std::string_view rest = text;
    while (!rest.empty()) {
      Utf8Step step = from_right ? last_code_point(rest) : decode_utf8(rest);
      if (is_space(step.code_point)) {
        break;
      }
      from_right ? rest.remove_suffix(step.n_bytes)
                 : rest.remove_prefix(step.n_bytes);
    }
    out.push_back(
        from_right ? text.substr(rest.size())
                   : text.substr(0, text.size() - rest.size()));
    text = from_right ? rstrip_space(rest) : lstrip_space(rest);
  }
  return out;
}

} // namespace

std::u32string to_code_points(std::string_view text) {
  std::u32string out;
  out.reserve(text.size());
  while (!text.empty()) {
    Utf8Step step = decode_utf8(text);
    out += step.code_point;
    text.remove_prefix(step.n_bytes);
  }
  return out;
}

std::string to_utf8(std::u32string_view code_points) {
  std::string out;
  out.reserve(code_points.size());
  for (char32_t c : code_points) {
    append_utf8(out, c);
  }
  return out;
}

std::string to_utf8(char32_t code_point) {
  std::string out;
  append_utf8(out, code_point);
  return out;
}

std::size_t length(std::string_view text) {
  return static_cast<std::size_t>(
      std::count_if(text.begin(), text.end(), [](char c) {
        return (static_cast<unsigned char>(c) & 0xC0) != 0x80;
      }));
}

bool is_ascii(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) {
    return static_cast<unsigned char>(c) < 0x80;
  });
}

bool is_space(char32_t c) {
  return (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x20) || c == 0x85 ||
      c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 ||
      c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

bool is_alpha(char32_t c) {
  utf8proc_category_t k = category(c);
  return k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_LO;
}

bool is_decimal(char32_t c) {
  return category(c) == UTF8PROC_CATEGORY_ND;
}

std::string ascii_decimals(std::string_view text) {
  if (is_ascii(text)) {
    return std::string(text);
  }
  std::u32string out = to_code_points(text);
  for (char32_t& c : out) {
    if (!is_decimal(c)) {
      continue;
    }
    // The standard has decimals in rows of ten, from zero on.
    char32_t n_before = 0;
    while (is_decimal(c - n_before - 1)) {
      ++n_before;
    }
    c = U'0' + n_before % 10;
  }
  return to_utf8(out);
}

bool is_digit_char(char32_t c) {
  // Superscripts and circled digits count; they are not decimals.
  return is_decimal(c) || c == 0xB2 || c == 0xB3 || c == 0xB9 ||
      (c >= 0x1369 && c <= 0x1371) || c == 0x19DA || c == 0x2070 ||
      (c >= 0x2074 && c <= 0x2079) || (c >= 0x2080 && c <= 0x2089) ||
      (c >= 0x2460 && c <= 0x2468) || (c >= 0x2474 && c <= 0x247C) ||
      (c >= 0x2488 && c <= 0x2490) || c == 0x24EA ||
      (c >= 0x24F5 && c <= 0x24FD) || c == 0x24FF ||
      (c >= 0x2776 && c <= 0x277E) || (c >= 0x2780 && c <= 0x2788) ||
      (c >= 0x278A && c <= 0x2792);
}

bool is_numeric(char32_t c) {
  utf8proc_category_t k = category(c);
  if (k >= UTF8PROC_CATEGORY_ND && k <= UTF8PROC_CATEGORY_NO) {
    return true;
  }
  // The Chinese numerals in common use; they are letters by category.
  constexpr std::u32string_view numerals =
      U"一二三四五六七八九十百千万億兆〇零"
      U"壱壹弐貳贰叁參肆伍陸陆柒捌玖拾";
  return numerals.find(c) != numerals.npos;
}

bool is_alnum(char32_t c) {
  return is_alpha(c) || is_numeric(c);
}

bool is_upper(char32_t c) {
  return category(c) == UTF8PROC_CATEGORY_LU || (c >= 0x2160 && c <= 0x216F) ||
      (c >= 0x24B6 && c <= 0x24CF);
}

bool is_lower(char32_t c) {
  return category(c) == UTF8PROC_CATEGORY_LL || c == 0xAA || c == 0xBA ||
      (c >= 0x2170 && c <= 0x217F) || (c >= 0x24D0 && c <= 0x24E9) ||
      (c >= 0x2B0 && c <= 0x2B8);
}

bool is_title(char32_t c) {
  return category(c) == UTF8PROC_CATEGORY_LT;
}

bool is_printable(char32_t c) {
  switch (category(c)) {
  case UTF8PROC_CATEGORY_CC:
  case UTF8PROC_CATEGORY_CF:
  case UTF8PROC_CATEGORY_CS:
  case UTF8PROC_CATEGORY_CO:
  case UTF8PROC_CATEGORY_CN:
  case UTF8PROC_CATEGORY_ZL:
  case UTF8PROC_CATEGORY_ZP:
    return false;
  case UTF8PROC_CATEGORY_ZS:
    return c == ' ';
  default:
    return true;
  }
}

bool is_identifier_part(char32_t c) {
  if (c < 0x80) {
    return c == '_' || (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') ||
        (c >= 'a' && c <= 'z');
  }
  utf8proc_category_t k = category(c);
  return is_alpha(c) || is_decimal(c) || k == UTF8PROC_CATEGORY_MN ||
      k == UTF8PROC_CATEGORY_MC || k == UTF8PROC_CATEGORY_NL ||
      k == UTF8PROC_CATEGORY_PC;
}

std::string upper(std::string_view text) {
  std::u32string out;
  for (char32_t c : to_code_points(text)) {
    append_upper(out, c);
  }
  return to_utf8(out);
}

std::string lower(std::string_view text) {
  std::u32string in = to_code_points(text);
  std::u32string out;
  for (std::size_t n = 0; n < in.size(); ++n) {
    append_lower(out, in, n);
  }
  return to_utf8(out);
}

std::string title(std::string_view text) {
  std::u32string in = to_code_points(text);
  std::u32string out;
  bool in_word = false;
  for (std::size_t n = 0; n < in.size(); ++n) {
    if (in_word) {
      append_lower(out, in, n);
    } else {
      append_title(out, in[n]);
    }
    in_word = is_cased(in[n]);
  }
  return to_utf8(out);
}

std::string capitalize(std::string_view text) {
  std::u32string in = to_code_points(text);
  std::u32string out;
  for (std::size_t n = 0; n < in.size(); ++n) {
    if (n == 0) {
      append_title(out, in[n]);
    } else {
      append_lower(out, in, n);
    }
  }
  return to_utf8(out);
}

std::string swapcase(std::string_view text) {
  std::u32string in = to_code_points(text);
  std::u32string out;
  for (std::size_t n = 0; n < in.size(); ++n) {
    if (is_upper(in[n])) {
      append_lower(out, in, n);
    } else if (is_lower(in[n])) {
      append_upper(out, in[n]);
    } else {
      out += in[n];
    }
  }
  return to_utf8(out);
}

std::string casefold(std::string_view text) {
  std::u32string out;
  for (char32_t c : to_code_points(text)) {
    if (const SpecialCase* s = find_special(special_fold, c)) {
      out += s->to;
    } else if (c == 0x3C2) {
      out += U'\u03C3';
    } else {
      out += simple(utf8proc_tolower, c);
    }
  }
  return to_utf8(out);
}

std::string_view rstrip_space(std::string_view text) {
  return strip_if(text, is_space, false, true);
}

std::string_view lstrip_space(std::string_view text) {
  return strip_if(text, is_space, true, false);
}

std::string_view strip(
    std::string_view text,
    std::optional<std::string_view> chars,
    bool left,
    bool right) {
  if (!chars) {
    return strip_if(text, is_space, left, right);
  }
  std::u32string set = to_code_points(*chars);
  return strip_if(
      text,
      [&set](char32_t c) { return set.find(c) != set.npos; },
      left,
      right);
}

std::vector<std::string_view> split(
    std::string_view text,
    std::optional<std::string_view> separator,
    std::int64_t max_split,
    bool from_right) {
  std::vector<std::string_view> out;
  if (!separator) {
    out = split_space(text, max_split, from_right);
  } else {
    while (max_split < 0 || static_cast<std::int64_t>(out.size()) < max_split) {
      std::size_t at =
          from_right ? text.rfind(*separator) : text.find(*separator);
      if (at == text.npos) {
        break;
      }
      std::string_view before = text.substr(0, at);
      std::string_view after = text.substr(at + separator->size());
      out.push_back(from_right ? after : before);
      text = from_right ? before : after;
    }
    out.push_back(text);
  }
  if (from_right) {
    std::reverse(out.begin(), out.end());
  }
  return out;
}

std::vector<std::string_view>
split_lines(std::string_view text, bool keep_ends) {
  std::vector<std::string_view> out;
  std::size_t start = 0;
  std::size_t n = 0;
  while (n < text.size()) {
    Utf8Step step = decode_utf8(text.substr(n));
    std::size_t end = n + step.n_bytes;
    if (is_line_end(step.code_point)) {
      if (text[n] == '\r' && end < text.size() && text[end] == '\n') {
        ++end;
      }
      out.push_back(text.substr(start, (keep_ends ? end : n) - start));
      start = end;
    }
    n = end;
  }
  if (start < text.size()) {
    out.push_back(text.substr(start));
  }
  return out;
}

std::string replace(
    std::string_view text,
    std::string_view from,
    std::string_view to,
    std::int64_t count) {
  std::string out;
  if (from.empty()) {
    // Python puts the new text before each character and at the end.
    std::int64_t done = 0;
    while (true) {
      if (count < 0 || done < count) {
        out += to;
        ++done;
      }
      if (text.empty()) {
        return out;
      }
      std::size_t n = decode_utf8(text).n_bytes;
      out += text.substr(0, n);
      text.remove_prefix(n);
    }
  }
  for (std::int64_t done = 0; count < 0 || done < count; ++done) {
    std::size_t at = text.find(from);
    if (at == text.npos) {
      break;
    }
    out += text.substr(0, at);
    out += to;
    text.remove_prefix(at + from.size());
  }
  return out += text;
}

} // namespace qwen3_mlx::jinja
