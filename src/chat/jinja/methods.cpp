// SPDX-License-Identifier: MIT
// Attributes of plain values: finds the table of their type.
#include <algorithm>
#include <array>
#include <cmath>

#include "chat/jinja/args.h"
#include "chat/jinja/builtins.h"
#include "chat/jinja/string_methods.h"

namespace qwen3_mlx::jinja {

namespace {

Value view(const Value& dict, DictView::Part part) {
  return Value(std::shared_ptr<Object>(
      std::make_shared<DictView>(dict.dict_ptr(), part)));
}

std::optional<Value> dict_method(const Value& self, std::string_view name) {
  auto view_function = [&](DictView::Part part) {
    return make_function(
        std::string(name),
        [self, part, name = std::string(name)](Runtime&, Args args) {
          expect_no_arguments(name, args);
          return view(self, part);
        },
        self.depth() + 1);
  };
  if (name == "items") {
    return view_function(DictView::Part::items);
  }
  if (name == "keys") {
    return view_function(DictView::Part::keys);
  }
  if (name == "values") {
    return view_function(DictView::Part::values);
  }
  if (name == "get") {
    return make_function(
        "get",
        [self](Runtime&, Args args) {
          if (!args.keyword.empty()) {
            throw Fault("dict.get() takes no keyword arguments");
          }
          Bound bound("get", std::move(args), {"key", "default"}, 1);
          const Value* value = self.as_dict().find(bound[0]);
          return value ? *value : bound.get(1, Value());
        },
        self.depth() + 1);
  }
  if (name == "copy") {
    return make_function(
        "copy",
        [self](Runtime& rt, Args args) {
          expect_no_arguments("copy", args);
          rt.budget().charge_items(self.as_dict().size());
          return Value::dict(Dict(self.as_dict()));
        },
        self.depth() + 1);
  }
  return std::nullopt;
}

std::optional<Value> sequence_method(const Value& self, std::string_view name) {
  if (name == "count") {
    return make_function(
        "count",
        [self](Runtime& rt, Args args) {
          Bound bound("count", std::move(args), {"value"}, 1);
          std::int64_t n = 0;
          for (const Value& item : self.items()) {
            rt.budget().charge();
            n += equal(item, bound[0]) ? 1 : 0;
          }
          return Value(n);
        },
        self.depth() + 1);
  }
  if (name == "index") {
    return make_function(
        "index",
        [self](Runtime& rt, Args args) {
          Bound bound("index", std::move(args), {"value", "start", "stop"}, 1);
          auto n = static_cast<std::int64_t>(self.items().size());
          auto clamp = [n](std::int64_t v) {
            return std::clamp<std::int64_t>(
                v < 0 ? std::max(v, -n) + n : v, 0, n);
          };
          std::int64_t stop = clamp(bound.integer(2, n));
          for (std::int64_t at = clamp(bound.integer(1, 0)); at < stop; ++at) {
            rt.budget().charge();
            if (equal(self.items()[static_cast<std::size_t>(at)], bound[0])) {
              return Value(at);
            }
          }
          throw Fault(rt.repr(bound[0]) + " is not in " + self.type_name());
        },
        self.depth() + 1);
  }
  if (name == "copy" && self.is_list()) {
    return make_function(
        "copy",
        [self](Runtime& rt, Args args) {
          expect_no_arguments("copy", args);
          return rt.list(self.items());
        },
        self.depth() + 1);
  }
  return std::nullopt;
}

std::optional<Value> number_method(const Value& self, std::string_view name) {
  if (name == "real" || (name == "numerator" && self.is_integral())) {
    return self.is_bool() ? Value(self.as_int()) : self;
  }
  if (name == "imag") {
    return self.is_real() ? Value(0.0) : Value(0);
  }
  if (name == "denominator" && self.is_integral()) {
    return Value(1);
  }
  if (name == "conjugate") {
    return make_function("conjugate", [self](Runtime&, Args args) {
      expect_no_arguments("conjugate", args);
      return positive(self);
    });
  }
  if (name == "bit_length" && self.is_integral()) {
    return make_function("bit_length", [self](Runtime&, Args args) {
      expect_no_arguments("bit_length", args);
      std::int64_t n = self.as_int();
      auto bits = n < 0 ? 0 - static_cast<std::uint64_t>(n)
                        : static_cast<std::uint64_t>(n);
      std::int64_t count = 0;
      for (; bits != 0; bits >>= 1) {
        ++count;
      }
      return Value(count);
    });
  }
  if (name == "is_integer" && self.is_real()) {
    return make_function("is_integer", [self](Runtime&, Args args) {
      expect_no_arguments("is_integer", args);
      double d = self.as_real();
      return Value(std::isfinite(d) && d == std::floor(d));
    });
  }
  return std::nullopt;
}

template <std::size_t N>
bool contains_name(
    const std::array<std::string_view, N>& names,
    std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

} // namespace

std::optional<Value> method(const Value& self, std::string_view name) {
  switch (self.kind()) {
  case Value::Kind::string:
    return string_method(self, name);
  case Value::Kind::dict:
    return dict_method(self, name);
  case Value::Kind::list:
  case Value::Kind::tuple:
    return sequence_method(self, name);
  case Value::Kind::boolean:
  case Value::Kind::integer:
  case Value::Kind::real:
    return number_method(self, name);
  case Value::Kind::object:
    if (const auto tuple = self.as_object().as_tuple()) {
      return sequence_method(*tuple, name);
    }
    return std::nullopt;
  default:
    return std::nullopt;
  }
}

bool is_mutating_method(const Value& self, std::string_view name) {
  static constexpr std::array<std::string_view, 8> of_list = {
      "append",
      "clear",
      "pop",
      "reverse",
      "insert",
      "sort",
      "extend",
      "remove"};
  static constexpr std::array<std::string_view, 5> of_dict = {
      "clear", "pop", "popitem", "setdefault", "update"};
  return (self.is_list() && contains_name(of_list, name)) ||
      (self.is_dict() && contains_name(of_dict, name));
}

} // namespace qwen3_mlx::jinja
