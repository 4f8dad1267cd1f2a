// SPDX-License-Identifier: MIT
// The methods of str.
#pragma once

#include <optional>
#include <string_view>

#include "chat/jinja/runtime.h"

namespace qwen3_mlx::jinja {

/// The method `name` bound to the str `self`, nullopt when there is none.
std::optional<Value> string_method(const Value& self, std::string_view name);

} // namespace qwen3_mlx::jinja
