// SPDX-License-Identifier: MIT
#include "chat/jinja/format_numbers.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "chat/jinja/fault.h"
#include "chat/jinja/text.h"

namespace qwen3_mlx::jinja {

std::string digits_in_base(std::uint64_t n, unsigned base, bool upper_case) {
  const char* symbols = upper_case ? "0123456789ABCDEF" : "0123456789abcdef";
  std::string out;
  do {
    out.insert(out.begin(), symbols[n % base]);
    n /= base;
  } while (n != 0);
  return out;
}

std::uint64_t magnitude(std::int64_t n) {
  return n < 0 ? 0 - static_cast<std::uint64_t>(n)
               : static_cast<std::uint64_t>(n);
}

std::string sign_of(bool negative, const FormatFlags& flags) {
  return negative ? "-" : flags.sign ? "+" : flags.space ? " " : "";
}

std::string format_double(double d, char kind, int precision, bool alternate) {
  bool upper_case = kind >= 'A' && kind <= 'Z';
  if (std::isnan(d) || std::isinf(d)) {
    std::string text = std::isnan(d) ? "nan" : d < 0 ? "-inf" : "inf";
    return upper_case ? upper(text) : text;
  }
  char lower_kind = static_cast<char>(kind | 0x20);
  if (lower_kind != 'f' && lower_kind != 'e' && lower_kind != 'g') {
    throw Fault(std::string("Unknown format code '") + kind + "'");
  }
  char format[8];
  std::snprintf(format, sizeof format, alternate ? "%%#.*%c" : "%%.*%c", kind);
  // 400 holds the longest %f of a double; the precision comes on top.
  std::string out(static_cast<std::size_t>(precision) + 400, '\0');
#if defined(__GNUC__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
#endif
  int n = std::snprintf(out.data(), out.size(), format, precision, d);
#if defined(__GNUC__)
#pragma GCC diagnostic pop
#endif
  out.resize(static_cast<std::size_t>(std::max(n, 0)));
  // A program that sets a locale has another point, of one byte or more.
  const auto point = out.find_first_not_of("+-0123456789eE");
  if (point != out.npos) {
    const auto after = out.find_first_of("0123456789eE", point);
    out.replace(point, std::min(after, out.size()) - point, ".");
  }
  return out;
}

} // namespace qwen3_mlx::jinja
