// SPDX-License-Identifier: MIT
#include "chat/jinja/string_literal.h"

#include <cmath>
#include <cstdint>
#include <limits>
#include <locale>
#include <sstream>
#include <stdexcept>

#include "base/utf8.h"

namespace qwen3_mlx::jinja {

namespace {

int hex_value(char c) {
  if (c >= '0' && c <= '9') {
    return c - '0';
  }
  char lower = static_cast<char>(c | 0x20);
  return lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : -1;
}

// Reads exactly `n` hex digits at `pos`.
char32_t hex_escape(std::string_view text, std::size_t pos, int n) {
  char32_t code_point = 0;
  for (int k = 0; k < n; ++k, ++pos) {
    int digit = pos < text.size() ? hex_value(text[pos]) : -1;
    if (digit < 0) {
      throw std::invalid_argument("an escape in a string is cut off");
    }
    code_point = code_point * 16 + static_cast<char32_t>(digit);
  }
  if (code_point > 0x10FFFF) {
    throw std::invalid_argument("illegal Unicode character in a string");
  }
  if (code_point >= 0xD800 && code_point <= 0xDFFF) {
    throw std::invalid_argument(
        "a string has half of a surrogate pair, which is no character");
  }
  return code_point;
}

// Jinja turns non-ASCII text into escapes before it unescapes, so a backslash
// before such a character escapes that escape's own backslash.
std::string escaped_form(char32_t code_point) {
  int digits = code_point <= 0xFF ? 2 : code_point <= 0xFFFF ? 4 : 8;
  std::string out = digits == 2 ? "\\x" : digits == 4 ? "\\u" : "\\U";
  for (int shift = (digits - 1) * 4; shift >= 0; shift -= 4) {
    out += "0123456789abcdef"[(code_point >> shift) & 15];
  }
  return out;
}

} // namespace

std::string unescape(std::string_view text) {
  std::string out;
  for (std::size_t n = 0; n < text.size(); ++n) {
    if (text[n] != '\\') {
      out += text[n];
      continue;
    }
    if (++n == text.size()) {
      throw std::invalid_argument("a backslash ends a string");
    }
    char c = text[n];
    switch (c) {
    case '\n':
      break;
    case '\\':
    case '\'':
    case '"':
      out += c;
      break;
    case 'a':
      out += '\a';
      break;
    case 'b':
      out += '\b';
      break;
    case 'f':
      out += '\f';
      break;
    case 'n':
      out += '\n';
      break;
    case 'r':
      out += '\r';
      break;
    case 't':
      out += '\t';
      break;
    case 'v':
      out += '\v';
      break;
    case 'x':
      append_utf8(out, hex_escape(text, n + 1, 2));
      n += 2;
      break;
    case 'u':
      append_utf8(out, hex_escape(text, n + 1, 4));
      n += 4;
      break;
    case 'U':
      append_utf8(out, hex_escape(text, n + 1, 8));
      n += 8;
      break;
    case 'N':
      throw std::invalid_argument(
          "\\N escapes are not supported: write the character or \\u....");
    default:
      if (c >= '0' && c <= '7') {
        char32_t code_point = 0;
        std::size_t end = std::min(n + 3, text.size());
        for (; n < end && text[n] >= '0' && text[n] <= '7'; ++n) {
          code_point = code_point * 8 + static_cast<char32_t>(text[n] - '0');
        }
        --n;
        append_utf8(out, code_point);
      } else if (static_cast<unsigned char>(c) >= 0x80) {
        Utf8Step step = decode_utf8(text.substr(n));
        out += escaped_form(step.code_point);
        n += step.n_bytes - 1u;
      } else {
        out += '\\';
        out += c;
      }
    }
  }
  return out;
}

std::optional<double> parse_double(std::string_view text) {
  std::string digits;
  bool negative = false;
  std::size_t n = 0;
  if (!text.empty() && (text[0] == '-' || text[0] == '+')) {
    negative = text[0] == '-';
    n = 1;
  }
  double sign = negative ? -1.0 : 1.0;
  std::string lower;
  for (char c : text.substr(n)) {
    lower += c >= 'A' && c <= 'Z' ? static_cast<char>(c | 0x20) : c;
  }
  if (lower == "inf" || lower == "infinity") {
    return sign * std::numeric_limits<double>::infinity();
  }
  if (lower == "nan") {
    return std::numeric_limits<double>::quiet_NaN();
  }
  // The grammar is checked here; the conversion is the library's.
  bool any_digit = false;
  bool exponent = false;
  bool point = false;
  for (; n < text.size(); ++n) {
    char c = text[n];
    bool before = n > 0 && text[n - 1] >= '0' && text[n - 1] <= '9';
    bool after =
        n + 1 < text.size() && text[n + 1] >= '0' && text[n + 1] <= '9';
    if (c >= '0' && c <= '9') {
      any_digit = true;
      digits += c;
    } else if (c == '_' && before && after) {
      continue;
    } else if (c == '.' && !point && !exponent) {
      point = true;
      digits += c;
    } else if ((c == 'e' || c == 'E') && any_digit && !exponent) {
      exponent = true;
      digits += 'e';
      if (n + 1 < text.size() && (text[n + 1] == '+' || text[n + 1] == '-')) {
        digits += text[++n];
      }
      if (n + 1 >= text.size() || text[n + 1] < '0' || text[n + 1] > '9') {
        return std::nullopt;
      }
    } else {
      return std::nullopt;
    }
  }
  if (!any_digit) {
    return std::nullopt;
  }
  std::istringstream in(digits);
  in.imbue(std::locale::classic());
  double value = 0;
  in >> value; // Out of range: sets ±max or 0; told apart below.
  if (in.fail() && value != 0) {
    value = std::numeric_limits<double>::infinity();
  }
  return sign * value;
}

} // namespace qwen3_mlx::jinja
