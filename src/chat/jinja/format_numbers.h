// SPDX-License-Identifier: MIT
// What the two ways to format have in common.
#pragma once

#include <cstdint>
#include <string>

namespace qwen3_mlx::jinja {

// Widths and precisions of hostile formats end here.
constexpr std::int64_t max_format_width = 1 << 20;
constexpr int max_format_precision = 1000;

struct FormatFlags {
  bool left = false;
  bool sign = false;
  bool space = false;
  bool zero = false;
  bool alternate = false;
};

std::string digits_in_base(std::uint64_t n, unsigned base, bool upper_case);
/// |n|, which is more than an int64 holds for the smallest.
std::uint64_t magnitude(std::int64_t n);
std::string sign_of(bool negative, const FormatFlags& flags);

/// A number with a fixed kind of notation: 'f', 'e' or 'g', upper case too.
std::string
format_double(double d, char kind, int precision, bool alternate = false);

} // namespace qwen3_mlx::jinja
