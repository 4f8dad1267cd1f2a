// SPDX-License-Identifier: MIT
// Python's view of text: a row of code points, with str's notion of space,
// letters and case. All texts are valid UTF-8.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace qwen3_mlx::jinja {

std::u32string to_code_points(std::string_view text);
std::string to_utf8(std::u32string_view code_points);
std::string to_utf8(char32_t code_point);
/// Number of code points.
std::size_t length(std::string_view text);
bool is_ascii(std::string_view text);

bool is_space(char32_t c); ///< str.isspace
bool is_alpha(char32_t c);
bool is_decimal(char32_t c);
bool is_digit_char(char32_t c);
bool is_numeric(char32_t c);
bool is_alnum(char32_t c);
bool is_upper(char32_t c);
bool is_lower(char32_t c);
bool is_title(char32_t c);
bool is_printable(char32_t c); ///< Shown by repr() as it is.
bool is_identifier_part(char32_t c);

/// The decimals of every script as '0' to '9', as int() and float() read them.
std::string ascii_decimals(std::string_view text);

std::string upper(std::string_view text);
std::string lower(std::string_view text);
std::string title(std::string_view text);
std::string capitalize(std::string_view text);
std::string swapcase(std::string_view text);
std::string casefold(std::string_view text);

std::string_view rstrip_space(std::string_view text);
std::string_view lstrip_space(std::string_view text);
/// str.strip(chars) and its one-sided forms; without chars: white space.
std::string_view strip(
    std::string_view text,
    std::optional<std::string_view> chars,
    bool left,
    bool right);

/// str.split / rsplit. max_split < 0: all.
std::vector<std::string_view> split(
    std::string_view text,
    std::optional<std::string_view> separator,
    std::int64_t max_split,
    bool from_right);
std::vector<std::string_view>
split_lines(std::string_view text, bool keep_ends);
std::string replace(
    std::string_view text,
    std::string_view from,
    std::string_view to,
    std::int64_t count);

} // namespace qwen3_mlx::jinja
