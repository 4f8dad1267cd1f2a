// SPDX-License-Identifier: MIT
// Binding a call's arguments to a built-in's parameters, as Python does.
#pragma once

#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "chat/jinja/runtime.h"

namespace qwen3_mlx::jinja {

/// The arguments of one call by parameter. Reading one that was not given
/// yields the default.
class Bound {
 public:
  /// `names` are the parameters in order; the first `n_required` must be
  /// given. Throws Fault for too many, unknown, repeated or missing ones.
  Bound(
      std::string_view function,
      Args args,
      std::initializer_list<std::string_view> names,
      std::size_t n_required = 0);

  bool has(std::size_t n) const {
    return values_[n].has_value();
  }
  const Value& operator[](std::size_t n) const {
    return *values_[n];
  }
  Value get(std::size_t n, Value otherwise) const {
    if (values_[n]) {
      return *values_[n];
    }
    return otherwise;
  }
  /// nullopt for an argument that is absent or None.
  std::optional<Value> not_none(std::size_t n) const {
    return values_[n] && !values_[n]->is_none() ? values_[n] : std::nullopt;
  }
  /// An argument that Python uses as an index. Throws Fault for other types.
  std::int64_t integer(std::size_t n, std::int64_t otherwise) const;
  bool truth(std::size_t n, bool otherwise) const {
    return values_[n] ? truthy(*values_[n]) : otherwise;
  }
  /// A str argument. Throws Fault for other types.
  std::string_view text(std::size_t n) const;

 private:
  std::string function_;
  std::vector<std::optional<Value>> values_;
};

/// Throws Fault unless there is nothing in `args`.
void expect_no_arguments(std::string_view function, const Args& args);
/// v as an index, or Fault.
std::int64_t expect_integer(const Value& v);
/// v as a str, or Fault.
const std::string& expect_string(std::string_view function, const Value& v);

} // namespace qwen3_mlx::jinja
