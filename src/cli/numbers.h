// SPDX-License-Identifier: MIT
// Numbers on the command line: decimal, in range, and told in the same words
// wherever they are wrong.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <string_view>

#include <CLI/CLI.hpp>

namespace qwen3_mlx::cli {

/// Decimal digits alone ("010" is ten). Nothing for any other text and for a
/// number that does not fit.
std::optional<std::uint64_t> parse_whole(std::string_view text);

/// The same for a token's id.
std::optional<std::uint32_t> parse_token_id(std::string_view text);

/// For Option::transform(), which hands on the number in the form that CLI11
/// reads as decimal: whole numbers from `least` to `most`.
CLI::Validator whole_number(
    std::int64_t least,
    std::uint64_t most = std::numeric_limits<int>::max());

/// For Option::check(): finite numbers from `least` to `most`. The limits of
/// float itself stand for none.
CLI::Validator real_number(
    double least = std::numeric_limits<float>::lowest(),
    double most = std::numeric_limits<float>::max());

} // namespace qwen3_mlx::cli
