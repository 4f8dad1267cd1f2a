// SPDX-License-Identifier: MIT
#include "qwen3_mlx/sampling.h"

#include <gtest/gtest.h>

#include <set>

namespace qwen3_mlx {
namespace {

using Words = std::array<std::uint32_t, 4>;

// The known-answer vectors published with Random123 (kat_vectors, philox4x32
// with 10 rounds).
TEST(Philox, KnownAnswers) {
  EXPECT_EQ(
      philox4x32({0, 0, 0, 0}, {0, 0}),
      (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  constexpr std::uint32_t ones = 0xffffffff;
  EXPECT_EQ(
      philox4x32({ones, ones, ones, ones}, {ones, ones}),
      (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(
      philox4x32(
          {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
          {0xa4093822, 0x299f31d0}),
      (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Draw, LiesInTheUnitInterval) {
  double sum = 0;
  constexpr int num = 100000;
  for (int index = 0; index < num; ++index) {
    const auto numbers = draw(/* seed */ 7, static_cast<std::uint64_t>(index));
    ASSERT_GE(numbers.token, 0.0F);
    ASSERT_LT(numbers.token, 1.0F);
    ASSERT_GE(numbers.xtc, 0.0F);
    ASSERT_LT(numbers.xtc, 1.0F);
    sum += numbers.token;
  }
  // The mean's standard deviation is 1 / sqrt(12 * 100000) = 0.0009.
  EXPECT_NEAR(sum / num, 0.5, 0.005);
}

TEST(Draw, DependsOnEveryBitOfSeedAndIndex) {
  std::set<float> seen{draw(0, 0).token};
  for (int bit = 0; bit < 64; ++bit) {
    seen.insert(draw(std::uint64_t{1} << bit, 0).token);
    seen.insert(draw(0, std::uint64_t{1} << bit).token);
  }
  EXPECT_EQ(seen.size(), 129U);
}

TEST(RandomSeed, Differs) {
  EXPECT_NE(random_seed(), random_seed());
}

} // namespace
} // namespace qwen3_mlx
