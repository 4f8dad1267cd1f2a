// SPDX-License-Identifier: MIT
// Philox4x32-10, and the numbers a token takes from it.
#include "qwen3_mlx/sampling.h"

#include <random>

namespace qwen3_mlx {
namespace {

struct Product {
  std::uint32_t high;
  std::uint32_t low;
};

Product multiply(std::uint32_t a, std::uint32_t b) {
  const std::uint64_t product = std::uint64_t{a} * b;
  return {
      static_cast<std::uint32_t>(product >> 32),
      static_cast<std::uint32_t>(product)};
}

// 23 bits, so that draw * total < total in float32 for every total > 0.
float to_unit_interval(std::uint32_t word) {
  return static_cast<float>(word >> 9) * 0x1p-23F;
}

} // namespace

std::array<std::uint32_t, 4> philox4x32(
    std::array<std::uint32_t, 4> counter,
    std::array<std::uint32_t, 2> key) noexcept {
  // Multipliers and key steps of the paper, table 2 and section 4.1.
  constexpr std::uint32_t multiplier0 = 0xD2511F53;
  constexpr std::uint32_t multiplier1 = 0xCD9E8D57;
  constexpr std::uint32_t weyl0 = 0x9E3779B9;
  constexpr std::uint32_t weyl1 = 0xBB67AE85;
  constexpr int rounds = 10;
  for (int round = 0; round < rounds; ++round) {
    const auto product0 = multiply(multiplier0, counter[0]);
    const auto product1 = multiply(multiplier1, counter[2]);
    counter = {
        product1.high ^ counter[1] ^ key[0],
        product1.low,
        product0.high ^ counter[3] ^ key[1],
        product0.low};
    key = {key[0] + weyl0, key[1] + weyl1};
  }
  return counter;
}

Draw draw(std::uint64_t seed, std::uint64_t token_index) noexcept {
  const auto low = [](std::uint64_t x) {
    return static_cast<std::uint32_t>(x);
  };
  const auto words = philox4x32(
      {low(token_index), low(token_index >> 32), 0, 0},
      {low(seed), low(seed >> 32)});
  return {
      .token = to_unit_interval(words[0]), .xtc = to_unit_interval(words[1])};
}

std::uint64_t random_seed() {
  std::random_device device;
  return (std::uint64_t{device()} << 32) | device();
}

} // namespace qwen3_mlx
