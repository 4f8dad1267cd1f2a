// SPDX-License-Identifier: MIT
// Python's "%d" % x.
#include "chat/jinja/printf.h"

#include <algorithm>
#include <cmath>

#include "chat/jinja/args.h"
#include "chat/jinja/format_numbers.h"
#include "chat/jinja/text.h"

namespace qwen3_mlx::jinja {

namespace {

std::string
pad(Runtime& rt,
    std::string sign,
    std::string body,
    std::int64_t width,
    const FormatFlags& flags,
    bool numeric) {
  if (width > max_format_width) {
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
      return std::min(n < 0 ? -n : n, max_format_width + 1);
    }
    std::int64_t n = 0;
    while (at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9') {
      n = std::min<std::int64_t>(
          n * 10 + (text_[at_++] - '0'), max_format_width + 1);
    }
    return n;
  }

  std::string conversion() {
    std::optional<Value> keyed;
    if (at_ < text_.size() && text_[at_] == '(') {
      keyed = mapping_value();
    }
    FormatFlags flags;
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
      precision = negative ? 0
                           : static_cast<int>(std::min<std::int64_t>(
                                 n, max_format_precision + 1));
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
      const FormatFlags& flags,
      std::int64_t width,
      std::optional<int> precision) {
    if (precision && *precision > max_format_precision) {
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

} // namespace

Value printf_format(Runtime& rt, const Value& format, const Value& values) {
  return Printf(rt, format, values).run();
}

} // namespace qwen3_mlx::jinja
