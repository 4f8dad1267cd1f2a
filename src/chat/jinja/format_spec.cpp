// SPDX-License-Identifier: MIT
// Python's format(value, spec).
#include <algorithm>
#include <cmath>

#include "base/utf8.h"
#include "chat/jinja/format_numbers.h"
#include "chat/jinja/printf.h"
#include "chat/jinja/text.h"

namespace qwen3_mlx::jinja {

namespace {

// The parts of "[[fill]align][sign][z][#][0][width][grouping][.prec][type]".
struct Spec {
  std::string fill = " ";
  char align = 0;
  FormatFlags flags;
  std::int64_t width = 0;
  char grouping = 0;
  std::optional<int> precision;
  char type = 0;
};

Spec parse_spec(std::string_view text) {
  Spec spec;
  auto is_align = [](char c) {
    return c == '<' || c == '>' || c == '^' || c == '=';
  };
  std::size_t n = 0;
  if (!text.empty()) {
    std::size_t first = decode_utf8(text).n_bytes;
    if (first < text.size() && is_align(text[first])) {
      spec.fill = std::string(text.substr(0, first));
      spec.align = text[first];
      n = first + 1;
    } else if (is_align(text[0])) {
      spec.align = text[0];
      n = 1;
    }
  }
  auto at = [&](char c) { return n < text.size() && text[n] == c; };
  if (at('+') || at('-') || at(' ')) {
    spec.flags.sign = at('+');
    spec.flags.space = at(' ');
    ++n;
  }
  if (at('#')) {
    spec.flags.alternate = true;
    ++n;
  }
  if (at('0')) {
    if (spec.align == 0) {
      spec.align = '=';
      spec.fill = "0";
    }
    spec.flags.zero = true;
    ++n;
  }
  auto number = [&] {
    std::int64_t out = 0;
    while (n < text.size() && text[n] >= '0' && text[n] <= '9') {
      out = std::min<std::int64_t>(
          out * 10 + (text[n++] - '0'), max_format_width + 1);
    }
    return out;
  };
  spec.width = number();
  if (spec.width > max_format_width) {
    throw Fault("a format's width is too large");
  }
  if (at(',') || at('_')) {
    spec.grouping = text[n++];
  }
  if (at('.')) {
    ++n;
    if (n >= text.size() || text[n] < '0' || text[n] > '9') {
      throw Fault("Format specifier missing precision");
    }
    spec.precision = static_cast<int>(
        std::min<std::int64_t>(number(), max_format_precision + 1));
    if (*spec.precision > max_format_precision) {
      throw Fault("a format's precision is too large");
    }
  }
  if (n < text.size()) {
    spec.type = text[n++];
  }
  if (n != text.size()) {
    throw Fault("Invalid format specifier");
  }
  return spec;
}

std::string align_text(
    const Spec& spec,
    std::string sign,
    std::string body,
    char fallback) {
  auto n = static_cast<std::int64_t>(length(sign) + length(body));
  auto missing =
      static_cast<std::size_t>(std::max<std::int64_t>(spec.width - n, 0));
  auto fill = [&](std::size_t times) {
    std::string out;
    for (std::size_t k = 0; k < times; ++k) {
      out += spec.fill;
    }
    return out;
  };
  char align = spec.align != 0 ? spec.align : fallback;
  switch (align) {
  case '<':
    return sign + body + fill(missing);
  case '^':
    return fill(missing / 2) + sign + body + fill(missing - missing / 2);
  case '=':
    return sign + fill(missing) + body;
  default:
    return fill(missing) + sign + body;
  }
}

std::string group_digits(std::string body, char separator, std::size_t every) {
  std::size_t digits = 0;
  while (digits < body.size() &&
         ((body[digits] >= '0' && body[digits] <= '9') ||
          (every == 4 && body[digits] != '.'))) {
    ++digits;
  }
  for (std::size_t n = digits; n > every;) {
    n -= every;
    body.insert(n, 1, separator);
  }
  return body;
}

std::string format_integer(const Spec& spec, std::int64_t n) {
  unsigned base = 10;
  std::string prefix;
  switch (spec.type) {
  case 'b':
    base = 2;
    prefix = "0b";
    break;
  case 'o':
    base = 8;
    prefix = "0o";
    break;
  case 'x':
    base = 16;
    prefix = "0x";
    break;
  case 'X':
    base = 16;
    prefix = "0X";
    break;
  default:
    break;
  }
  if (spec.precision) {
    throw Fault("Precision not allowed in integer format specifier");
  }
  std::string body = digits_in_base(magnitude(n), base, spec.type == 'X');
  if (spec.grouping != 0) {
    body = group_digits(std::move(body), spec.grouping, base == 10 ? 3u : 4u);
  }
  std::string sign = sign_of(n < 0, spec.flags);
  return align_text(
      spec, sign + (spec.flags.alternate ? prefix : ""), std::move(body), '>');
}

std::string format_real(const Spec& spec, double d) {
  std::string body;
  double positive = std::abs(d);
  if (spec.type == '%') {
    body = format_double(positive * 100, 'f', spec.precision.value_or(6)) + "%";
  } else if (spec.type == 0 && !spec.precision) {
    body = repr_double(positive);
  } else if (spec.type == 0) {
    body = format_double(positive, 'g', *spec.precision);
    if (std::isfinite(d) && body.find_first_of(".e") == body.npos) {
      body += ".0";
    }
  } else {
    char kind = spec.type == 'n' ? 'g' : spec.type;
    body = format_double(
        positive, kind, spec.precision.value_or(6), spec.flags.alternate);
  }
  if (spec.grouping != 0) {
    body = group_digits(std::move(body), spec.grouping, 3);
  }
  bool negative = std::signbit(d) && !std::isnan(d);
  return align_text(spec, sign_of(negative, spec.flags), std::move(body), '>');
}

} // namespace

std::string format_value(Runtime& rt, const Value& v, std::string_view text) {
  if (text.empty()) {
    return rt.to_str(v);
  }
  if (!v.is_string() && !v.is_number()) {
    throw Fault(
        "unsupported format string passed to " + v.type_name() + ".__format__");
  }
  Spec spec = parse_spec(text);
  rt.budget().charge_bytes(static_cast<std::size_t>(spec.width));
  if (v.is_string()) {
    if ((spec.type != 0 && spec.type != 's') || spec.flags.sign ||
        spec.flags.space || spec.flags.alternate || spec.grouping != 0 ||
        (spec.align == '=' && !spec.flags.zero)) {
      throw Fault("invalid format specifier for object of type 'str'");
    }
    std::string body = v.as_string();
    if (spec.precision) {
      body = to_utf8(to_code_points(body).substr(
          0, static_cast<std::size_t>(*spec.precision)));
    }
    if (spec.align == '=') {
      throw Fault("'=' alignment not allowed in string format specifier");
    }
    return align_text(spec, "", std::move(body), '<');
  }
  constexpr std::string_view real_types = "eEfFgG%";
  if (v.is_real() || real_types.find(spec.type) != real_types.npos) {
    if (spec.type != 0 && real_types.find(spec.type) == real_types.npos &&
        spec.type != 'n') {
      throw Fault(
          std::string("Unknown format code '") + spec.type +
          "' for object of type 'float'");
    }
    return format_real(spec, v.as_real());
  }
  if (spec.type == 'c') {
    std::int64_t n = v.as_int();
    if (n < 0 || n > 0x10FFFF || (n >= 0xD800 && n <= 0xDFFF)) {
      throw Fault("%c arg not in range(0x110000)");
    }
    return align_text(spec, "", to_utf8(static_cast<char32_t>(n)), '>');
  }
  constexpr std::string_view integer_types = "bdnoxX";
  if (spec.type != 0 && integer_types.find(spec.type) == integer_types.npos) {
    throw Fault(
        std::string("Unknown format code '") + spec.type +
        "' for object of type 'int'");
  }
  if (v.is_bool() && spec.type == 0) {
    // A bool with a spec but no type prints as an int.
    return format_integer(spec, v.as_int());
  }
  return format_integer(spec, v.as_int());
}

} // namespace qwen3_mlx::jinja
