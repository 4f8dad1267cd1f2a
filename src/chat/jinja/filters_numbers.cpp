// SPDX-License-Identifier: MIT
// Filters on numbers.
#include <charconv>
#include <cmath>

#include "chat/jinja/args.h"
#include "chat/jinja/filters.h"
#include "chat/jinja/format_numbers.h"
#include "chat/jinja/lookup.h"
#include "chat/jinja/string_literal.h"
#include "chat/jinja/text.h"

namespace qwen3_mlx::jinja::filters {

namespace {

// int(text, base) of Python; nullopt for ValueError.
std::optional<std::int64_t>
parse_int(std::string_view original, std::int64_t base) {
  if (base != 0 && (base < 2 || base > 36)) {
    return std::nullopt;
  }
  const std::string decimals =
      ascii_decimals(rstrip_space(lstrip_space(original)));
  std::string_view text = decimals;
  bool negative = !text.empty() && text[0] == '-';
  if (!text.empty() && (text[0] == '-' || text[0] == '+')) {
    text.remove_prefix(1);
  }
  auto prefix = [&](char letter) {
    return text.size() > 2 && text[0] == '0' && (text[1] | 0x20) == letter;
  };
  bool zero_base = base == 0;
  for (auto [letter, value] :
       {std::pair{'x', 16}, std::pair{'o', 8}, std::pair{'b', 2}}) {
    if (prefix(letter) && (zero_base || base == value)) {
      base = value;
      text.remove_prefix(2);
      if (text[0] == '_') {
        text.remove_prefix(1);
      }
      zero_base = false;
      break;
    }
  }
  if (zero_base) {
    base = 10;
    if (text.size() > 1 && text[0] == '0' &&
        text.find_first_not_of("0_") != text.npos) {
      return std::nullopt;
    }
  }
  std::string digits;
  for (std::size_t n = 0; n < text.size(); ++n) {
    if (text[n] == '_') {
      if (n == 0 || n + 1 == text.size() || text[n - 1] == '_') {
        return std::nullopt;
      }
      continue;
    }
    digits += text[n];
  }
  if (digits.empty() || digits[0] == '-' || digits[0] == '+') {
    return std::nullopt;
  }
  if (negative) {
    digits.insert(0, "-");
  }
  std::int64_t out = 0;
  auto [end, error] = std::from_chars(
      digits.data(),
      digits.data() + digits.size(),
      out,
      static_cast<int>(base));
  if (end != digits.data() + digits.size()) {
    return std::nullopt;
  }
  if (error == std::errc::result_out_of_range) {
    throw Fault("the integer does not fit in 64 bits");
  }
  return error == std::errc() ? std::optional(out) : std::nullopt;
}

// Throws Fault for infinity, as int() does; nullopt for NaN.
std::optional<std::int64_t> truncate(double d) {
  if (std::isnan(d)) {
    return std::nullopt;
  }
  if (std::isinf(d)) {
    throw Fault("cannot convert float infinity to integer");
  }
  if (!(std::abs(d) < 9.2e18)) {
    throw Fault("the integer does not fit in 64 bits");
  }
  return static_cast<std::int64_t>(d);
}

std::optional<double> parse_float(std::string_view text) {
  return parse_double(ascii_decimals(rstrip_space(lstrip_space(text))));
}

// round(d, digits) of Python: correctly rounded decimal digits.
double round_decimal(double d, std::int64_t digits) {
  if (!std::isfinite(d) || digits > 323) {
    return d;
  }
  if (digits < -308) {
    return std::copysign(0.0, d);
  }
  if (digits >= 0) {
    return parse_double(format_double(d, 'f', static_cast<int>(digits)))
        .value_or(d);
  }
  double scale = std::pow(10.0, static_cast<double>(-digits));
  double scaled = d / scale;
  double rounded = std::nearbyint(scaled);
  return rounded * scale;
}

} // namespace

Value absolute(Runtime&, const Value& in, Args args) {
  expect_no_arguments("abs", args);
  if (in.is_integral()) {
    return in.as_int() < 0 ? negate(in) : Value(in.as_int());
  }
  if (in.is_real()) {
    return std::abs(in.as_real());
  }
  throw Fault("bad operand type for abs(): '" + in.type_name() + "'");
}

Value to_int(Runtime&, const Value& in, Args args) {
  Bound bound("int", std::move(args), {"default", "base"});
  std::int64_t base = bound.integer(1, 10);
  if (in.is_undefined()) {
    fail_undefined(in);
  }
  if (in.is_integral()) {
    return in.as_int();
  }
  std::optional<std::int64_t> out;
  if (in.is_real()) {
    out = truncate(in.as_real());
  } else if (in.is_string()) {
    out = parse_int(in.as_string(), base);
    if (!out) {
      auto d = parse_float(in.as_string());
      if (d && std::isfinite(*d)) {
        out = truncate(*d);
      }
    }
  }
  return out ? Value(*out) : bound.get(0, Value(0));
}

Value to_float(Runtime&, const Value& in, Args args) {
  Bound bound("float", std::move(args), {"default"});
  if (in.is_undefined()) {
    fail_undefined(in);
  }
  if (in.is_number()) {
    return in.as_real();
  }
  std::optional<double> d =
      in.is_string() ? parse_float(in.as_string()) : std::nullopt;
  return d ? Value(*d) : bound.get(0, Value(0.0));
}

Value round(Runtime& rt, const Value& in, Args args) {
  Bound bound("round", std::move(args), {"precision", "method"});
  std::string how = "common";
  if (bound.has(1)) {
    how = bound[1].is_string() ? bound[1].as_string() : "";
  }
  if (how != "common" && how != "ceil" && how != "floor") {
    throw Fault("method must be common, ceil or floor");
  }
  if (in.is_undefined()) {
    fail_undefined(in);
  }
  if (how == "common") {
    if (in.is_real()) {
      if (bound.has(0) && bound[0].is_none()) {
        auto whole = truncate(std::nearbyint(in.as_real()));
        if (!whole) {
          throw Fault("cannot convert float NaN to integer");
        }
        return *whole;
      }
      return round_decimal(in.as_real(), bound.integer(0, 0));
    }
    if (!in.is_integral()) {
      throw Fault(
          "type " + in.type_name() + " doesn't define __round__ method");
    }
    std::int64_t digits =
        bound.has(0) && bound[0].is_none() ? 0 : bound.integer(0, 0);
    if (digits >= 0) {
      return in.as_int();
    }
    // Whole tens: halves go to the even neighbour.
    std::int64_t n = in.as_int();
    if (digits < -18) {
      return 0;
    }
    std::int64_t unit = power(Value(10), Value(-digits)).as_int();
    std::int64_t rest = ((n % unit) + unit) % unit;
    std::int64_t low = n - rest;
    bool up =
        rest > unit - rest || (rest == unit - rest && (low / unit) % 2 != 0);
    return add(rt, Value(low), Value(up ? unit : std::int64_t{0}));
  }
  Value scale = power(Value(10), bound.get(0, Value(0)));
  Value scaled = multiply(rt, in, scale);
  if (!scaled.is_number()) {
    throw Fault("must be real number, not " + scaled.type_name());
  }
  double d = how == "ceil" ? std::ceil(scaled.as_real())
                           : std::floor(scaled.as_real());
  if (!std::isfinite(d)) {
    throw Fault("cannot convert float to integer");
  }
  // Through an integer, as math.ceil() gives one: -0 becomes 0.
  return (d + 0.0) / scale.as_real();
}

Value sum(Runtime& rt, const Value& in, Args args) {
  Bound bound("sum", std::move(args), {"attribute", "start"});
  Value total = bound.get(1, Value(0));
  std::optional<Lookup> lookup;
  if (auto attribute = bound.not_none(0)) {
    lookup.emplace(*attribute);
  }
  auto it = rt.iterate(in);
  while (auto item = it->next(rt)) {
    rt.budget().charge();
    total = add(rt, total, lookup ? lookup->get(rt, *item) : *item);
  }
  return total;
}

} // namespace qwen3_mlx::jinja::filters
