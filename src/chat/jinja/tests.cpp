// SPDX-License-Identifier: MIT
// Jinja's built-in tests: `x is ...`.
#include <algorithm>
#include <array>

#include "chat/jinja/args.h"
#include "chat/jinja/builtins.h"
#include "chat/jinja/text.h"

namespace qwen3_mlx::jinja {

namespace {

template <bool (*is)(const Value&)>
bool simple(Runtime&, const Value& in, Args args) {
  expect_no_arguments("test", args);
  return is(in);
}

bool is_defined(const Value& v) {
  return !v.is_undefined();
}
bool is_undefined(const Value& v) {
  return v.is_undefined();
}
bool is_none(const Value& v) {
  return v.is_none();
}
bool is_boolean(const Value& v) {
  return v.is_bool();
}
bool is_true(const Value& v) {
  return v.is_bool() && v.as_bool();
}
bool is_false(const Value& v) {
  return v.is_bool() && !v.as_bool();
}
bool is_integer(const Value& v) {
  return v.is_int();
}
bool is_float(const Value& v) {
  return v.is_real();
}
bool is_number(const Value& v) {
  return v.is_number();
}
bool is_string(const Value& v) {
  return v.is_string();
}
bool is_mapping(const Value& v) {
  return v.is_dict();
}
bool is_escaped(const Value& v) {
  return v.is_markup();
}

bool is_callable(const Value& v) {
  // An Undefined has a __call__ that fails.
  return v.is_undefined() || (v.is_object() && v.as_object().callable());
}

bool is_iterable(const Value& v) {
  if (v.is_object()) {
    return v.as_object().iterate() != nullptr;
  }
  return v.is_undefined() || v.is_string() || v.is_list() || v.is_tuple() ||
      v.is_dict();
}

bool is_sequence(const Value& v) {
  if (v.is_object()) {
    return v.as_object().has_items();
  }
  return is_iterable(v);
}

// The other operand of a comparison.
Value operand(Args args) {
  if (!args.keyword.empty() || args.positional.size() != 1) {
    throw Fault("the test takes exactly one argument");
  }
  return std::move(args.positional[0]);
}

bool eq(Runtime&, const Value& in, Args args) {
  return equal(in, operand(std::move(args)));
}
bool ne(Runtime&, const Value& in, Args args) {
  return !equal(in, operand(std::move(args)));
}
bool lt(Runtime&, const Value& in, Args args) {
  return less(in, operand(std::move(args)), "<");
}
bool gt(Runtime&, const Value& in, Args args) {
  return less(operand(std::move(args)), in, ">");
}
bool le(Runtime&, const Value& in, Args args) {
  Value other = operand(std::move(args));
  return less(in, other, "<=") || equal(in, other);
}
bool ge(Runtime&, const Value& in, Args args) {
  Value other = operand(std::move(args));
  return less(other, in, ">=") || equal(in, other);
}

bool odd(Runtime& rt, const Value& in, Args args) {
  expect_no_arguments("odd", args);
  return equal(modulo(rt, in, Value(2)), Value(1));
}
bool even(Runtime& rt, const Value& in, Args args) {
  expect_no_arguments("even", args);
  return equal(modulo(rt, in, Value(2)), Value(0));
}
bool divisible_by(Runtime& rt, const Value& in, Args args) {
  Bound bound("divisibleby", std::move(args), {"num"}, 1);
  return equal(modulo(rt, in, bound[0]), Value(0));
}
bool same_as(Runtime&, const Value& in, Args args) {
  Bound bound("sameas", std::move(args), {"other"}, 1);
  return in.same_as(bound[0]);
}
bool contained_in(Runtime& rt, const Value& in, Args args) {
  Bound bound("in", std::move(args), {"seq"}, 1);
  return rt.contains(bound[0], in);
}

template <bool upper_case>
bool cased(Runtime& rt, const Value& in, Args args) {
  expect_no_arguments("lower", args);
  Value text = rt.str(rt.to_str(in));
  return truthy(
      rt.call(*method(text, upper_case ? "isupper" : "islower"), Args{}));
}

bool names_filter(Runtime&, const Value& in, Args args) {
  expect_no_arguments("filter", args);
  hash(in); // A list cannot be looked up.
  return in.is_string() && has_filter(in.as_string());
}
bool names_test(Runtime&, const Value& in, Args args) {
  expect_no_arguments("test", args);
  hash(in);
  return in.is_string() && has_test(in.as_string());
}

struct Entry {
  std::string_view name;
  Test test;
};

constexpr std::array<Entry, 39> table = {{
    {"!=", ne},
    {"<", lt},
    {"<=", le},
    {"==", eq},
    {">", gt},
    {">=", ge},
    {"boolean", simple<is_boolean>},
    {"callable", simple<is_callable>},
    {"defined", simple<is_defined>},
    {"divisibleby", divisible_by},
    {"eq", eq},
    {"equalto", eq},
    {"escaped", simple<is_escaped>},
    {"even", even},
    {"false", simple<is_false>},
    {"filter", names_filter},
    {"float", simple<is_float>},
    {"ge", ge},
    {"greaterthan", gt},
    {"gt", gt},
    {"in", contained_in},
    {"integer", simple<is_integer>},
    {"iterable", simple<is_iterable>},
    {"le", le},
    {"lessthan", lt},
    {"lower", cased<false>},
    {"lt", lt},
    {"mapping", simple<is_mapping>},
    {"ne", ne},
    {"none", simple<is_none>},
    {"number", simple<is_number>},
    {"odd", odd},
    {"sameas", same_as},
    {"sequence", simple<is_sequence>},
    {"string", simple<is_string>},
    {"test", names_test},
    {"true", simple<is_true>},
    {"undefined", simple<is_undefined>},
    {"upper", cased<true>},
}};

} // namespace

Test find_test(std::string_view name) {
  auto it = std::lower_bound(
      table.begin(), table.end(), name, [](const Entry& e, auto key) {
        return e.name < key;
      });
  return it != table.end() && it->name == name ? it->test : nullptr;
}

bool has_test(std::string_view name) {
  return find_test(name) != nullptr;
}

} // namespace qwen3_mlx::jinja
