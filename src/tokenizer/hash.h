// SPDX-License-Identifier: MIT
// A fast hash of short byte strings, for tables whose keys are compared in
// full: collisions cost time, never correctness.
#pragma once

#include <cstdint>
#include <cstring>
#include <string_view>

namespace qwen3_mlx {

/// Both halves of the 128-bit product, folded.
inline std::uint64_t mix(std::uint64_t a, std::uint64_t b) {
  __extension__ using Product = unsigned __int128;
  const Product product = static_cast<Product>(a) * b;
  return static_cast<std::uint64_t>(product) ^
      static_cast<std::uint64_t>(product >> 64);
}

// Odd constants with half of their bits set.
inline constexpr std::uint64_t hash_key_0 = 0x9E3779B97F4A7C15u;
inline constexpr std::uint64_t hash_key_1 = 0xD6E8FEB86659FD93u;

inline std::uint64_t hash_words(std::uint64_t low, std::uint64_t high) {
  return mix(low ^ hash_key_0, high ^ hash_key_1);
}

inline std::uint64_t hash_bytes(std::string_view bytes) {
  std::uint64_t hash = bytes.size();
  const char* data = bytes.data();
  std::size_t left = bytes.size();
  while (left >= 8) {
    std::uint64_t word = 0;
    std::memcpy(&word, data, 8);
    hash = hash_words(word, hash);
    data += 8;
    left -= 8;
  }
  std::uint64_t word = 0;
  std::memcpy(&word, data, left);
  return hash_words(word, hash);
}

} // namespace qwen3_mlx
