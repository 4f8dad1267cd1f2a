// SPDX-License-Identifier: MIT
// Arithmetic and order with Python's rules, on 64-bit integers: where Python
// would go on with a longer integer this is an error.
#include <cmath>
#include <limits>

#include "chat/jinja/printf.h"
#include "chat/jinja/runtime.h"

namespace qwen3_mlx::jinja {

namespace {

[[noreturn]] void
fail_operands(const char* op, const Value& a, const Value& b) {
  if (a.is_undefined()) {
    fail_undefined(a);
  }
  if (b.is_undefined()) {
    fail_undefined(b);
  }
  throw Fault(
      std::string("unsupported operand type(s) for ") + op + ": '" +
      a.type_name() + "' and '" + b.type_name() + "'");
}

[[noreturn]] void fail_overflow() {
  throw Fault("the integer does not fit in 64 bits");
}

std::int64_t checked_add(std::int64_t a, std::int64_t b) {
  std::int64_t out;
  if (__builtin_add_overflow(a, b, &out)) {
    fail_overflow();
  }
  return out;
}

std::int64_t checked_mul(std::int64_t a, std::int64_t b) {
  std::int64_t out;
  if (__builtin_mul_overflow(a, b, &out)) {
    fail_overflow();
  }
  return out;
}

// Quotient rounded down and the remainder with the divisor's sign.
std::pair<std::int64_t, std::int64_t> divmod(std::int64_t a, std::int64_t b) {
  if (b == 0) {
    throw Fault("integer division or modulo by zero");
  }
  if (b == -1) {
    if (a == std::numeric_limits<std::int64_t>::min()) {
      fail_overflow();
    }
    return {-a, 0};
  }
  std::int64_t q = a / b;
  std::int64_t r = a % b;
  if (r != 0 && (r < 0) != (b < 0)) {
    --q;
    r += b;
  }
  return {q, r};
}

std::pair<double, double> divmod(double a, double b) {
  if (b == 0) {
    throw Fault("float floor division by zero");
  }
  double mod = std::fmod(a, b);
  double div = (a - mod) / b;
  if (mod != 0) {
    if ((b < 0) != (mod < 0)) {
      mod += b;
      div -= 1;
    }
  } else {
    mod = std::copysign(0.0, b);
  }
  double floored;
  if (div != 0) {
    floored = std::floor(div);
    if (div - floored > 0.5) {
      floored += 1;
    }
  } else {
    floored = std::copysign(0.0, a / b);
  }
  return {floored, mod};
}

Value repeat(Runtime& rt, const Value& seq, std::int64_t times) {
  auto n = static_cast<std::size_t>(times < 0 ? 0 : times);
  if (seq.is_string()) {
    const std::string& text = seq.as_string();
    if (!text.empty() &&
        n > rt.budget().limits().max_output_bytes / text.size()) {
      rt.budget().charge_bytes(rt.budget().limits().max_output_bytes + 1);
    }
    rt.budget().charge_bytes(text.size() * n);
    std::string out;
    out.reserve(text.size() * n);
    for (std::size_t k = 0; k < n && !text.empty(); ++k) {
      out += text;
    }
    return Value(std::move(out), seq.is_markup());
  }
  const std::vector<Value>& items = seq.items();
  if (!items.empty() && n > rt.budget().limits().max_items / items.size()) {
    rt.budget().charge_items(rt.budget().limits().max_items + 1);
  }
  std::vector<Value> out;
  for (std::size_t k = 0; k < n && !items.empty(); ++k) {
    out.insert(out.end(), items.begin(), items.end());
  }
  return seq.is_list() ? rt.list(std::move(out)) : rt.tuple(std::move(out));
}

bool is_sequence(const Value& v) {
  return v.is_string() || v.is_list() || v.is_tuple();
}

std::int64_t int_power(std::int64_t base, std::int64_t exponent) {
  std::int64_t out = 1;
  while (exponent > 0) {
    if (exponent & 1) {
      out = checked_mul(out, base);
    }
    exponent >>= 1;
    if (exponent > 0) {
      base = checked_mul(base, base);
    }
  }
  return out;
}

} // namespace

Value add(Runtime& rt, const Value& a, const Value& b) {
  if (a.is_integral() && b.is_integral()) {
    return checked_add(a.as_int(), b.as_int());
  }
  if (a.is_number() && b.is_number()) {
    return a.as_real() + b.as_real();
  }
  if (a.is_string() && b.is_string()) {
    // Markup keeps what is added to it from being HTML.
    bool markup = a.is_markup() || b.is_markup();
    auto text = [&](const Value& v) {
      return markup && !v.is_markup() ? escape_html(v.as_string())
                                      : v.as_string();
    };
    return rt.str(text(a) + text(b), markup);
  }
  if ((a.is_list() && b.is_list()) || (a.is_tuple() && b.is_tuple())) {
    std::vector<Value> out = a.items();
    out.insert(out.end(), b.items().begin(), b.items().end());
    return a.is_list() ? rt.list(std::move(out)) : rt.tuple(std::move(out));
  }
  if (a.is_string() && !b.is_undefined()) {
    throw Fault(
        "can only concatenate str (not \"" + b.type_name() + "\") to str");
  }
  fail_operands("+", a, b);
}

Value subtract(const Value& a, const Value& b) {
  if (a.is_integral() && b.is_integral()) {
    std::int64_t out;
    if (__builtin_sub_overflow(a.as_int(), b.as_int(), &out)) {
      fail_overflow();
    }
    return out;
  }
  if (a.is_number() && b.is_number()) {
    return a.as_real() - b.as_real();
  }
  fail_operands("-", a, b);
}

Value multiply(Runtime& rt, const Value& a, const Value& b) {
  if (a.is_integral() && b.is_integral()) {
    return checked_mul(a.as_int(), b.as_int());
  }
  if (a.is_number() && b.is_number()) {
    return a.as_real() * b.as_real();
  }
  if (is_sequence(a) && b.is_integral()) {
    return repeat(rt, a, b.as_int());
  }
  if (is_sequence(b) && a.is_integral()) {
    return repeat(rt, b, a.as_int());
  }
  fail_operands("*", a, b);
}

Value divide(const Value& a, const Value& b) {
  if (!a.is_number() || !b.is_number()) {
    fail_operands("/", a, b);
  }
  if (b.as_real() == 0) {
    throw Fault("division by zero");
  }
  return a.as_real() / b.as_real();
}

Value floor_divide(const Value& a, const Value& b) {
  if (a.is_integral() && b.is_integral()) {
    return divmod(a.as_int(), b.as_int()).first;
  }
  if (a.is_number() && b.is_number()) {
    return divmod(a.as_real(), b.as_real()).first;
  }
  fail_operands("//", a, b);
}

Value modulo(Runtime& rt, const Value& a, const Value& b) {
  if (a.is_integral() && b.is_integral()) {
    return divmod(a.as_int(), b.as_int()).second;
  }
  if (a.is_number() && b.is_number()) {
    return divmod(a.as_real(), b.as_real()).second;
  }
  if (a.is_string()) {
    return printf_format(rt, a, b);
  }
  fail_operands("%", a, b);
}

Value power(const Value& a, const Value& b) {
  if (!a.is_number() || !b.is_number()) {
    fail_operands("** or pow()", a, b);
  }
  if (a.is_integral() && b.is_integral() && b.as_int() >= 0) {
    return int_power(a.as_int(), b.as_int());
  }
  double base = a.as_real();
  double exponent = b.as_real();
  if (base == 0 && exponent < 0) {
    throw Fault("0.0 cannot be raised to a negative power");
  }
  if (base < 0 && std::isfinite(base) && std::isfinite(exponent) &&
      exponent != std::floor(exponent)) {
    throw Fault("the result is a complex number");
  }
  double out = std::pow(base, exponent);
  if (std::isinf(out) && std::isfinite(base) && std::isfinite(exponent)) {
    throw Fault("the result of ** is too large");
  }
  return out;
}

Value negate(const Value& v) {
  if (v.is_integral()) {
    if (v.as_int() == std::numeric_limits<std::int64_t>::min()) {
      fail_overflow();
    }
    return -v.as_int();
  }
  if (v.is_real()) {
    return -v.as_real();
  }
  if (v.is_undefined()) {
    fail_undefined(v);
  }
  throw Fault("bad operand type for unary -: '" + v.type_name() + "'");
}

Value positive(const Value& v) {
  if (v.is_integral()) {
    return v.as_int();
  }
  if (v.is_real()) {
    return v;
  }
  if (v.is_undefined()) {
    fail_undefined(v);
  }
  throw Fault("bad operand type for unary +: '" + v.type_name() + "'");
}

bool less(const Value& a, const Value& b, const char* op) {
  if (a.is_integral() && b.is_integral()) {
    return a.as_int() < b.as_int();
  }
  if (a.is_number() && b.is_number()) {
    // 64-bit integers above 2^53 do not all fit in a double.
    return static_cast<long double>(a.is_real() ? 0 : a.as_int()) +
        (a.is_real() ? a.as_real() : 0) <
        static_cast<long double>(b.is_real() ? 0 : b.as_int()) +
        (b.is_real() ? b.as_real() : 0);
  }
  if (a.is_string() && b.is_string()) {
    // The order of UTF-8 bytes is the order of code points.
    return a.as_string() < b.as_string();
  }
  if ((a.is_list() && b.is_list()) || (a.is_tuple() && b.is_tuple())) {
    const auto& x = a.items();
    const auto& y = b.items();
    for (std::size_t n = 0; n < x.size() && n < y.size(); ++n) {
      if (!equal(x[n], y[n])) {
        return less(x[n], y[n], op);
      }
    }
    return x.size() < y.size();
  }
  if (a.is_undefined()) {
    fail_undefined(a);
  }
  if (b.is_undefined()) {
    fail_undefined(b);
  }
  throw Fault(
      std::string("'") + op + "' not supported between instances of '" +
      a.type_name() + "' and '" + b.type_name() + "'");
}

} // namespace qwen3_mlx::jinja
