// SPDX-License-Identifier: MIT
// Limits and arithmetic that both tensor containers share.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/utf8.h"

namespace qwen3_mlx {

/// MLX keeps a dimension in an int32.
inline constexpr std::int64_t max_tensor_dim =
    std::numeric_limits<std::int32_t>::max();
inline constexpr std::size_t max_tensor_rank = 8;
inline constexpr std::size_t max_tensor_name_bytes = 512;
inline constexpr std::uint64_t max_tensors = 1'000'000;

/// a * b, or nothing where 64 bits do not hold it.
inline std::optional<std::uint64_t>
checked_mul(std::uint64_t a, std::uint64_t b) {
  if (b != 0 && a > std::numeric_limits<std::uint64_t>::max() / b) {
    return std::nullopt;
  }
  return a * b;
}

/// a + b, or nothing where 64 bits do not hold it.
inline std::optional<std::uint64_t>
checked_add(std::uint64_t a, std::uint64_t b) {
  if (a > std::numeric_limits<std::uint64_t>::max() - b) {
    return std::nullopt;
  }
  return a + b;
}

/// Text of an untrusted file, fit for a message: valid UTF-8, no control
/// characters, not endless.
inline std::string printable(std::string_view text) {
  constexpr std::size_t max_bytes = 120;
  std::string out = replace_invalid_utf8(text.substr(0, max_bytes));
  for (char& byte : out) {
    if (static_cast<unsigned char>(byte) < 0x20 || byte == 0x7F) {
      byte = '?';
    }
  }
  return text.size() > max_bytes ? out + "..." : out;
}

/// "[2, 3]"
inline std::string to_string(const std::vector<std::int64_t>& shape) {
  std::string out = "[";
  for (const auto dim : shape) {
    out += (out.size() > 1 ? ", " : "") + std::to_string(dim);
  }
  return out + "]";
}

} // namespace qwen3_mlx
