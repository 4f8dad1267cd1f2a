// SPDX-License-Identifier: MIT
// Metadata values of GGUF files.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "formats/gguf_cursor.h"

namespace qwen3_mlx::gguf {

/// Integers and floats of every width are widened.
using Value = std::variant<
    std::uint64_t,
    std::int64_t,
    double,
    bool,
    std::string,
    std::vector<std::uint64_t>,
    std::vector<std::int64_t>,
    std::vector<double>,
    std::vector<bool>,
    std::vector<std::string>>;

/// Reads the value of `key`. Throws FieldError for an unknown type, an array of
/// arrays, and lengths that no file has.
Value read_value(
    Cursor& in,
    const std::filesystem::path& path,
    const std::string& key);

/// "an unsigned integer", "an array of strings" ...
std::string_view type_name(const Value& value);

} // namespace qwen3_mlx::gguf
