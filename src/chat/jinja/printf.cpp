// SPDX-License-Identifier: MIT
#include "chat/jinja/printf.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "base/utf8.h"
#include "chat/jinja/args.h"
#include "chat/jinja/text.h"

namespace qwen3_mlx::jinja {

namespace {

// Widths and precisions of hostile formats end here.
constexpr std::int64_t max_width = 1 << 20;
constexpr int max_precision = 1000;

struct Flags {
  bool left = false, sign = false, space = false, zero = false,
       alternate = false;
};

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

std::string
pad(Runtime& rt,
    std::string sign,
    std::string body,
    std::int64_t width,
    const Flags& flags,
    bool numeric) {
  if (width > max_width) {
    throw Fault("a format's width is too large");
  }
  auto n = static_cast<std::int64_t>(length(sign) + length(body));
  std::string fill(
      static_cast<std::size_t>(std::max<std::int64_t>(width - n, 0)), ' ');
  rt.budget().charge_bytes(fill.size());
  if (flags.left) {
    return sign + body + fill;
  }
  if (flags.zero && numeric) {
    std::fill(fill.begin(), fill.end(), '0');
    return sign + fill + body;
  }
  return fill + sign + body;
}

std::string sign_of(bool negative, const Flags& flags) {
  return negative ? "-" : flags.sign ? "+" : flags.space ? " " : "";
}

std::int64_t to_printf_integer(const Value& v, char kind) {
  if (v.is_integral()) {
    return v.as_int();
  }
  if (v.is_real() && (kind == 'd' || kind == 'i' || kind == 'u')) {
    double whole = std::trunc(v.as_real());
    if (!(std::abs(whole) < 9.2e18)) {
      throw Fault("cannot convert float to a 64-bit integer");
    }
    return static_cast<std::int64_t>(whole);
  }
  if (v.is_undefined()) {
    fail_undefined(v);
  }
  throw Fault(
      std::string("%") + kind + " format: a real number is required, not " +
      v.type_name());
}

// One %-conversion at a time from a format.
class Printf {
 public:
  Printf(Runtime& rt, const Value& format, const Value& values)
      : rt_(rt), text_(format.as_string()), markup_(format.is_markup()),
        values_(values) {
    if (values.is_tuple()) {
      arguments_ = values.items();
    } else {
      arguments_ = {values};
    }
  }

  Value run() {
    std::string out;
    while (at_ < text_.size()) {
      char c = text_[at_++];
      if (c != '%') {
        out += c;
        continue;
      }
      out += conversion();
      rt_.budget().charge();
      rt_.budget().charge_bytes(out.size() > 4096 ? out.size() : 0);
    }
    if (next_ < arguments_.size() && !used_mapping_ &&
        (values_.is_tuple() || !is_mapping_like())) {
      throw Fault("not all arguments converted during string formatting");
    }
    return rt_.str(std::move(out), markup_);
  }

 private:
  bool is_mapping_like() const {
    // CPython forgives leftovers that could be a mapping: they have items.
    return values_.is_dict() || values_.is_list() || values_.is_undefined() ||
        (values_.is_object() && values_.as_object().has_items());
  }

  const Value& take() {
    if (next_ >= arguments_.size()) {
      throw Fault("not enough arguments for format string");
    }
    return arguments_[next_++];
  }

  std::int64_t number_or_star(bool& negative) {
    if (at_ < text_.size() && text_[at_] == '*') {
      ++at_;
      std::int64_t n = expect_integer(take());
      negative = n < 0;
      return std::min(n < 0 ? -n : n, max_width + 1);
    }
    std::int64_t n = 0;
    while (at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9') {
      n = std::min<std::int64_t>(n * 10 + (text_[at_++] - '0'), max_width + 1);
    }
    return n;
  }

  std::string conversion() {
    std::optional<Value> keyed;
    if (at_ < text_.size() && text_[at_] == '(') {
      keyed = mapping_value();
    }
    Flags flags;
    for (; at_ < text_.size(); ++at_) {
      char c = text_[at_];
      if (c == '-') {
        flags.left = true;
      } else if (c == '+') {
        flags.sign = true;
      } else if (c == ' ') {
        flags.space = true;
      } else if (c == '#') {
        flags.alternate = true;
      } else if (c == '0') {
        flags.zero = true;
      } else {
        break;
      }
    }
    bool negative = false;
    std::int64_t width = number_or_star(negative);
    flags.left = flags.left || negative;
    std::optional<int> precision;
    if (at_ < text_.size() && text_[at_] == '.') {
      ++at_;
      negative = false;
      std::int64_t n = number_or_star(negative);
      precision = negative
          ? 0
          : static_cast<int>(std::min<std::int64_t>(n, max_precision + 1));
    }
    if (at_ < text_.size() &&
        (text_[at_] == 'l' || text_[at_] == 'h' || text_[at_] == 'L')) {
      ++at_;
    }
    if (at_ >= text_.size()) {
      throw Fault("incomplete format");
    }
    char kind = text_[at_++];
    if (kind == '%') {
      return "%";
    }
    return convert(keyed ? *keyed : take(), kind, flags, width, precision);
  }

  Value mapping_value() {
    int open = 1;
    std::size_t start = ++at_;
    while (at_ < text_.size() && open > 0) {
      open += text_[at_] == '(' ? 1 : text_[at_] == ')' ? -1 : 0;
      ++at_;
    }
    if (open > 0) {
      throw Fault("incomplete format key");
    }
    std::string key(text_.substr(start, at_ - 1 - start));
    if (values_.is_undefined()) {
      fail_undefined(values_);
    }
    if (!values_.is_dict()) {
      throw Fault("format requires a mapping");
    }
    used_mapping_ = true;
    const Value* value = values_.as_dict().find(key);
    if (value == nullptr) {
      throw Fault("no key '" + key + "' for the format");
    }
    return *value;
  }

  std::string convert(
      const Value& v,
      char kind,
      const Flags& flags,
      std::int64_t width,
      std::optional<int> precision) {
    if (precision && *precision > max_precision) {
      throw Fault("a format's precision is too large");
    }
    switch (kind) {
    case 's':
    case 'r':
    case 'a': {
      std::string text = kind == 's' ? rt_.to_str(v)
          : kind == 'r'              ? rt_.repr(v)
                                     : ascii_repr(rt_, v);
      if (markup_ && !v.is_markup()) {
        text = escape_html(text);
      }
      if (precision) {
        text = to_utf8(to_code_points(text).substr(
            0, static_cast<std::size_t>(*precision)));
      }
      return pad(rt_, "", std::move(text), width, flags, false);
    }
    case 'c': {
      std::string text;
      if (v.is_string() && length(v.as_string()) == 1) {
        text = v.as_string();
      } else if (
          v.is_integral() && v.as_int() >= 0 && v.as_int() <= 0x10FFFF &&
          (v.as_int() < 0xD800 || v.as_int() > 0xDFFF)) {
        text = to_utf8(static_cast<char32_t>(v.as_int()));
      } else {
        throw Fault("%c requires int or char");
      }
      return pad(rt_, "", std::move(text), width, flags, false);
    }
    case 'd':
    case 'i':
    case 'u':
    case 'x':
    case 'X':
    case 'o': {
      std::int64_t n = to_printf_integer(v, kind);
      unsigned base = kind == 'o' ? 8 : (kind | 0x20) == 'x' ? 16 : 10;
      std::string body = digits_in_base(magnitude(n), base, kind == 'X');
      if (precision && static_cast<int>(body.size()) < *precision) {
        body.insert(0, static_cast<std::size_t>(*precision) - body.size(), '0');
      }
      std::string sign = sign_of(n < 0, flags);
      if (flags.alternate && base != 10) {
        sign += base == 8 ? "0o" : kind == 'X' ? "0X" : "0x";
      }
      return pad(rt_, sign, std::move(body), width, flags, true);
    }
    case 'f':
    case 'F':
    case 'e':
    case 'E':
    case 'g':
    case 'G': {
      if (!v.is_number()) {
        if (v.is_undefined()) {
          fail_undefined(v);
        }
        throw Fault("must be real number, not " + v.type_name());
      }
      double d = v.as_real();
      std::string body = format_double(
          std::abs(d), kind, precision.value_or(6), flags.alternate);
      bool negative = std::signbit(d) && !std::isnan(d);
      return pad(
          rt_, sign_of(negative, flags), std::move(body), width, flags, true);
    }
    default:
      throw Fault(std::string("unsupported format character '") + kind + "'");
    }
  }

  Runtime& rt_;
  std::string_view text_;
  bool markup_;
  Value values_;
  std::vector<Value> arguments_;
  std::size_t at_ = 0;
  std::size_t next_ = 0;
  bool used_mapping_ = false;
};

// The parts of "[[fill]align][sign][z][#][0][width][grouping][.prec][type]".
struct Spec {
  std::string fill = " ";
  char align = 0;
  Flags flags;
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
      out = std::min<std::int64_t>(out * 10 + (text[n++] - '0'), max_width + 1);
    }
    return out;
  };
  spec.width = number();
  if (spec.width > max_width) {
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
    spec.precision =
        static_cast<int>(std::min<std::int64_t>(number(), max_precision + 1));
    if (*spec.precision > max_precision) {
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

// Fields of str.format.
class BraceFormat {
 public:
  BraceFormat(Runtime& rt, const Args& args) : rt_(rt), args_(args) {}

  std::string run(std::string_view text, int depth) {
    if (depth > 2) {
      throw Fault("Max string recursion exceeded");
    }
    std::string out;
    std::size_t n = 0;
    while (n < text.size()) {
      char c = text[n++];
      if (c != '{' && c != '}') {
        out += c;
        continue;
      }
      if (n < text.size() && text[n] == c) {
        out += c;
        ++n;
        continue;
      }
      if (c == '}') {
        throw Fault("Single '}' encountered in format string");
      }
      std::size_t start = n;
      int open = 1;
      while (n < text.size() && open > 0) {
        open += text[n] == '{' ? 1 : text[n] == '}' ? -1 : 0;
        ++n;
      }
      if (open > 0) {
        throw Fault(
            start == text.size() ? "Single '{' encountered in format string"
                                 : "expected '}' before end of string");
      }
      out += field(text.substr(start, n - 1 - start), depth);
      rt_.budget().charge();
      rt_.budget().charge_bytes(out.size() > 4096 ? out.size() : 0);
    }
    return out;
  }

 private:
  std::string field(std::string_view text, int depth) {
    std::size_t end = 0;
    int brackets = 0;
    while (end < text.size() &&
           (brackets > 0 || (text[end] != '!' && text[end] != ':'))) {
      brackets += text[end] == '[' ? 1 : text[end] == ']' ? -1 : 0;
      ++end;
    }
    Value v = lookup(text.substr(0, end));
    std::string_view rest = text.substr(end);
    if (!rest.empty() && rest[0] == '!') {
      if (rest.size() < 2) {
        throw Fault("end of string while looking for conversion specifier");
      }
      switch (rest[1]) {
      case 's':
        v = rt_.str(rt_.to_str(v));
        break;
      case 'r':
        v = rt_.str(rt_.repr(v));
        break;
      case 'a':
        v = rt_.str(ascii_repr(rt_, v));
        break;
      default:
        throw Fault("Unknown conversion specifier");
      }
      rest.remove_prefix(2);
      if (!rest.empty() && rest[0] != ':') {
        throw Fault("expected ':' after conversion specifier");
      }
    }
    std::string spec =
        rest.empty() ? std::string() : run(rest.substr(1), depth + 1);
    return format_value(rt_, v, spec);
  }

  Value lookup(std::string_view path) {
    std::size_t end = path.find_first_of(".[");
    std::string_view first = path.substr(0, end);
    Value v = argument(first);
    while (end < path.size()) {
      if (path[end] == '.') {
        std::size_t next = path.find_first_of(".[", end + 1);
        std::string_view name = path.substr(
            end + 1, next == path.npos ? path.npos : next - end - 1);
        if (name.empty()) {
          throw Fault("Empty attribute in format string");
        }
        v = rt_.get_attr(v, name);
        end = next == path.npos ? path.size() : next;
      } else {
        std::size_t close = path.find(']', end);
        if (close == path.npos) {
          throw Fault("Missing ']' in format string");
        }
        std::string_view key = path.substr(end + 1, close - end - 1);
        if (key.empty()) {
          throw Fault("Empty attribute in format string");
        }
        v = rt_.get_item(v, is_number(key) ? Value(number(key)) : Value(key));
        end = close + 1;
        if (end < path.size() && path[end] != '.' && path[end] != '[') {
          throw Fault(
              "Only '.' or '[' may follow ']' in format field specifier");
        }
      }
    }
    return v;
  }

  static bool is_number(std::string_view text) {
    return !text.empty() && text.size() < 10 &&
        std::all_of(text.begin(), text.end(), [](char c) {
          return c >= '0' && c <= '9';
        });
  }
  static std::int64_t number(std::string_view text) {
    std::int64_t n = 0;
    for (char c : text) {
      n = n * 10 + (c - '0');
    }
    return n;
  }

  Value argument(std::string_view name) {
    if (name.empty() || is_number(name)) {
      bool automatic = name.empty();
      if (mode_ != Mode::none && (mode_ == Mode::automatic) != automatic) {
        throw Fault(
            "cannot switch between manual field specification and automatic "
            "field numbering");
      }
      mode_ = automatic ? Mode::automatic : Mode::manual;
      auto n = static_cast<std::size_t>(
          automatic ? static_cast<std::int64_t>(next_++) : number(name));
      if (n >= args_.positional.size()) {
        throw Fault(
            "Replacement index " + std::to_string(n) +
            " out of range for positional args tuple");
      }
      return args_.positional[n];
    }
    for (const auto& [key, value] : args_.keyword) {
      if (key == name) {
        return value;
      }
    }
    throw Fault("no argument '" + std::string(name) + "' for the format");
  }

  enum class Mode { none, automatic, manual };
  Runtime& rt_;
  const Args& args_;
  Mode mode_ = Mode::none;
  std::size_t next_ = 0;
};

} // namespace

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
  return out;
}

std::string ascii_repr(Runtime& rt, const Value& v) {
  std::string out;
  for (char32_t c : to_code_points(rt.repr(v))) {
    if (c < 0x80) {
      out += static_cast<char>(c);
      continue;
    }
    char buffer[16];
    std::snprintf(
        buffer,
        sizeof buffer,
        c <= 0xFF         ? "\\x%02x"
            : c <= 0xFFFF ? "\\u%04x"
                          : "\\U%08x",
        static_cast<unsigned>(c));
    out += buffer;
  }
  return out;
}

Value printf_format(Runtime& rt, const Value& format, const Value& values) {
  return Printf(rt, format, values).run();
}

Value brace_format(Runtime& rt, std::string_view format, const Args& args) {
  return rt.str(BraceFormat(rt, args).run(format, 0));
}

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
