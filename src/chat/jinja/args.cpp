// SPDX-License-Identifier: MIT
#include "chat/jinja/args.h"

#include <algorithm>

namespace qwen3_mlx::jinja {

Bound::Bound(
    std::string_view function,
    Args args,
    std::initializer_list<std::string_view> names,
    std::size_t n_required)
    : function_(function), values_(names.size()) {
  if (args.positional.size() > names.size()) {
    throw Fault(
        function_ + "() takes at most " + std::to_string(names.size()) +
        " arguments (" + std::to_string(args.positional.size()) + " given)");
  }
  for (std::size_t n = 0; n < args.positional.size(); ++n) {
    values_[n] = std::move(args.positional[n]);
  }
  for (auto& [name, value] : args.keyword) {
    const auto* it = std::find(names.begin(), names.end(), name);
    if (it == names.end()) {
      throw Fault(
          function_ + "() got an unexpected keyword argument '" + name + "'");
    }
    auto& place = values_[static_cast<std::size_t>(it - names.begin())];
    if (place) {
      throw Fault(
          function_ + "() got multiple values for argument '" + name + "'");
    }
    place = std::move(value);
  }
  for (std::size_t n = 0; n < n_required; ++n) {
    if (!values_[n]) {
      throw Fault(
          function_ + "() missing required argument '" +
          std::string(names.begin()[n]) + "'");
    }
  }
}

std::int64_t Bound::integer(std::size_t n, std::int64_t otherwise) const {
  return values_[n] ? expect_integer(*values_[n]) : otherwise;
}

std::string_view Bound::text(std::size_t n) const {
  return expect_string(function_, *values_[n]);
}

void expect_no_arguments(std::string_view function, const Args& args) {
  if (!args.positional.empty() || !args.keyword.empty()) {
    throw Fault(std::string(function) + "() takes no arguments");
  }
}

std::int64_t expect_integer(const Value& v) {
  if (v.is_undefined()) {
    fail_undefined(v);
  }
  if (!v.is_integral()) {
    throw Fault(
        "'" + v.type_name() + "' object cannot be interpreted as an integer");
  }
  return v.as_int();
}

const std::string& expect_string(std::string_view function, const Value& v) {
  if (!v.is_string()) {
    throw Fault(
        std::string(function) + "() argument must be str, not " +
        v.type_name());
  }
  return v.as_string();
}

} // namespace qwen3_mlx::jinja
