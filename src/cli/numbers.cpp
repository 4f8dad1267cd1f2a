// SPDX-License-Identifier: MIT
#include "cli/numbers.h"

#include <charconv>
#include <cmath>
#include <sstream>
#include <string>
#include <utility>

namespace qwen3_mlx::cli {
namespace {

bool are_digits(std::string_view text) {
  return !text.empty() &&
      text.find_first_not_of("0123456789") == std::string_view::npos;
}

/// "-7", in two parts: the least number of the 64 bits fits too.
struct Whole {
  bool is_negative;
  std::uint64_t size;
};

std::optional<Whole> parse_signed(std::string_view text) {
  const bool has_minus = text.starts_with('-');
  const auto size = parse_whole(text.substr(has_minus ? 1 : 0));
  if (!size.has_value()) {
    return std::nullopt;
  }
  return Whole{has_minus && *size > 0, *size};
}

bool is_less(const Whole& value, std::int64_t limit) {
  if (value.is_negative) {
    // Unsigned arithmetic has no overflow.
    return limit >= 0 || value.size > -static_cast<std::uint64_t>(limit);
  }
  return limit > 0 && value.size < static_cast<std::uint64_t>(limit);
}

bool is_more(const Whole& value, std::uint64_t limit) {
  return !value.is_negative && value.size > limit;
}

// The largest that a type holds limits nothing that a user thinks of.
bool is_named_limit(std::uint64_t most) {
  return most != static_cast<std::uint64_t>(std::numeric_limits<int>::max()) &&
      most != std::numeric_limits<std::uint64_t>::max();
}

std::string number_text(double value) {
  std::ostringstream text;
  text << value;
  return text.str();
}

std::string failure(const std::string& expected, const std::string& found) {
  return "expected " + expected + ", found '" + found + "'";
}

} // namespace

std::optional<std::uint64_t> parse_whole(std::string_view text) {
  std::uint64_t value = 0;
  const char* const end = text.data() + text.size();
  if (!are_digits(text) ||
      std::from_chars(text.data(), end, value).ec != std::errc()) {
    return std::nullopt;
  }
  return value;
}

std::optional<std::uint32_t> parse_token_id(std::string_view text) {
  const auto value = parse_whole(text);
  return value.has_value() && std::in_range<std::uint32_t>(*value)
      ? std::optional(static_cast<std::uint32_t>(*value))
      : std::nullopt;
}

CLI::Validator whole_number(std::int64_t least, std::uint64_t most) {
  const auto from = std::to_string(least);
  const auto to = std::to_string(most);
  const auto check = [=](std::string& text) -> std::string {
    const auto value = parse_signed(text);
    if (value && !is_less(*value, least) && !is_more(*value, most)) {
      text = (value->is_negative ? "-" : "") + std::to_string(value->size);
      return {};
    }
    const bool is_large =
        (value && is_more(*value, most)) || (!value && are_digits(text));
    return failure(
        is_large || is_named_limit(most)
            ? "a whole number from " + from + " to " + to
            : "a whole number of at least " + from,
        text);
  };
  return {
      check,
      is_named_limit(most) ? from + ".." + to
          : least == 1     ? "POSITIVE"
                           : ""};
}

CLI::Validator real_number(double least, double most) {
  const bool has_least = least > std::numeric_limits<float>::lowest();
  const bool has_most = most < std::numeric_limits<float>::max();
  const auto from = number_text(least);
  const auto to = number_text(most);
  const auto check = [=](std::string& text) -> std::string {
    double value = 0;
    // The comparisons are false for NaN as well.
    if (CLI::detail::lexical_cast(text, value) && value >= least &&
        value <= most) {
      return {};
    }
    return failure(
        has_most        ? "a number from " + from + " to " + to
            : has_least ? "a finite number of at least " + from
                        : "a finite number",
        text);
  };
  return {check, has_most ? from + ".." + to : ""};
}

} // namespace qwen3_mlx::cli
