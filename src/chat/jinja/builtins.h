// SPDX-License-Identifier: MIT
// The tables of filters, tests, methods and global functions.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "chat/jinja/runtime.h"

namespace qwen3_mlx::jinja {

using Filter = Value (*)(Runtime&, const Value& input, Args args);
using Test = bool (*)(Runtime&, const Value& input, Args args);

/// nullptr when there is none of that name.
Filter find_filter(std::string_view name);
Test find_test(std::string_view name);
bool has_filter(std::string_view name);
bool has_test(std::string_view name);

/// The method or property `name` of a plain value, bound to it.
std::optional<Value> method(const Value& self, std::string_view name);
/// Methods the immutable sandbox hides, such as list.append.
bool is_mutating_method(const Value& self, std::string_view name);

/// range, dict, namespace, raise_exception ...; nullopt when there is none.
std::optional<Value> find_global(std::string_view name);

} // namespace qwen3_mlx::jinja
