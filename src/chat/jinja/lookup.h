// SPDX-License-Identifier: MIT
// The `attribute` argument of filters, as in "function.name" or "items.0".
#pragma once

#include <optional>
#include <vector>

#include "chat/jinja/runtime.h"

namespace qwen3_mlx::jinja {

class Lookup {
 public:
  explicit Lookup(
      const Value& path,
      std::optional<Value> default_value = std::nullopt);

  /// The item that the path leads to from `from`.
  Value get(Runtime& rt, const Value& from) const;

 private:
  std::vector<Value> parts_;
  std::optional<Value> default_;
};

/// Strings in lower case, other values as they are: how filters compare when
/// they are not case sensitive.
Value ignore_case(Runtime& rt, const Value& v);

} // namespace qwen3_mlx::jinja
