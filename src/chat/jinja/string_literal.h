// SPDX-License-Identifier: MIT
// The escapes of a string literal, and numbers in text.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace qwen3_mlx::jinja {

/// What stands between the quotes, unescaped as Python's "unicode-escape"
/// codec does. Throws std::invalid_argument for an escape that is cut off or
/// no character.
std::string unescape(std::string_view text);

/// A whole text as a decimal number (no sign of a locale), nullopt when it is
/// none. Accepts what Python's float() accepts, without surrounding space.
std::optional<double> parse_double(std::string_view text);

} // namespace qwen3_mlx::jinja
