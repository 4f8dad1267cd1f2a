// SPDX-License-Identifier: MIT
// What an allocation of bits must be, on random models.
#include "convert/bit_allocation.h"

#include <cmath>
#include <random>

#include <gtest/gtest.h>

namespace qwen3_mlx {
namespace {

constexpr double overhead = 0.5; // float16 in groups of 64
constexpr double slack = 1e-9;   // of sums

/// Matrices whose damage falls about fourfold with a bit, each by its own
/// factor.
std::vector<BitCandidate>
random_candidates(std::mt19937& random, std::size_t count, bool equal_sizes) {
  std::uniform_real_distribution<double> logarithm(-4, 4);
  std::uniform_real_distribution<double> factor(3, 5.5);
  std::vector<BitCandidate> candidates(count);
  for (auto& candidate : candidates) {
    candidate.n_elements = equal_sizes ? 4096 : 4096 * (1 + random() % 64);
    candidate.overhead = overhead;
    const double size = std::exp(logarithm(random));
    const double step = factor(random);
    for (std::size_t width = 0; width < bit_widths.size(); ++width) {
      candidate.damages[width] = size * std::pow(step, -bit_widths[width]);
    }
  }
  return candidates;
}

BitAllocation uniform(std::size_t count, std::size_t width) {
  return BitAllocation(count, width);
}

class BitAllocationTest : public ::testing::TestWithParam<unsigned> {
 protected:
  std::mt19937 random_{GetParam()};
};

TEST_P(BitAllocationTest, TheBudgetIsKept) {
  for (const bool equal_sizes : {true, false}) {
    const auto candidates = random_candidates(random_, 40, equal_sizes);
    for (const double target : {2.5, 2.6, 3.5, 4.0, 4.5, 6.1, 8.5, 20.0}) {
      const auto found = allocate_bits(candidates, target, 0);
      ASSERT_EQ(found.size(), candidates.size());
      EXPECT_LE(mean_bits(candidates, found), target + slack);
      // Nothing that would still fit is left.
      double left = 0;
      for (const auto& candidate : candidates) {
        left += static_cast<double>(candidate.n_elements);
      }
      left *= target - mean_bits(candidates, found);
      for (std::size_t idx = 0; idx < found.size(); ++idx) {
        if (found[idx] + 1 < bit_widths.size()) {
          const int bits = bit_widths[found[idx] + 1] - bit_widths[found[idx]];
          EXPECT_GT(
              bits * static_cast<double>(candidates[idx].n_elements),
              left - 1e-3)
              << target;
        }
      }
    }
  }
}

TEST_P(BitAllocationTest, NeverWorseThanTheWidestThatAllCanHave) {
  // Of few and very unequal matrices, where taking the best step first may end
  // badly.
  for (const std::size_t count : {1u, 2u, 3u, 7u, 40u}) {
    const auto candidates = random_candidates(random_, count, false);
    for (int quarters = 10; quarters < 36; ++quarters) {
      const double target = quarters / 4.0;
      const auto width = widest_uniform(candidates, target);
      ASSERT_TRUE(width);
      const auto limit = total_damage(candidates, uniform(count, *width));
      for (std::size_t least = 0; least <= *width; ++least) {
        const auto found = allocate_bits(candidates, target, least);
        EXPECT_LE(total_damage(candidates, found), limit * (1 + slack));
        for (const auto each : found) {
          EXPECT_GE(each, least);
        }
      }
    }
  }
}

TEST_P(BitAllocationTest, MoreBitsNeverDoMoreDamage) {
  const auto candidates = random_candidates(random_, 40, true);
  double last = total_damage(candidates, uniform(40, 0));
  for (int tenths = 25; tenths < 90; ++tenths) {
    const double target = tenths / 10.0;
    const auto found =
        total_damage(candidates, allocate_bits(candidates, target, 0));
    EXPECT_LE(found, last * (1 + slack)) << target;
    last = found;
  }
}

INSTANTIATE_TEST_SUITE_P(Seeds, BitAllocationTest, ::testing::Range(1u, 21u));

TEST(BitAllocationUniform, IsTheWidestThatFits) {
  std::mt19937 random(5);
  const auto candidates = random_candidates(random, 9, false);
  EXPECT_FALSE(widest_uniform(candidates, 2.49));
  EXPECT_EQ(widest_uniform(candidates, 2.5), 0u);
  EXPECT_EQ(widest_uniform(candidates, 3.49), 0u);
  EXPECT_EQ(widest_uniform(candidates, 3.5), 1u);
  EXPECT_EQ(widest_uniform(candidates, 7.0), 4u);
  EXPECT_EQ(widest_uniform(candidates, 100), 5u);
  EXPECT_EQ(
      allocate_bits(candidates, 100, 0),
      uniform(candidates.size(), bit_widths.size() - 1));
}

// Errors that were measured need not fall with each bit.
TEST(BitAllocationUniform, BitsThatMendNothingAreNotInTheWay) {
  std::vector<BitCandidate> candidates(2);
  candidates[0] = {4096, overhead, {9, 9, 1, 1, 1, 1}};
  candidates[1] = {4096, overhead, {5, 4, 3.9, 3.8, 3.7, 3.6}};
  EXPECT_EQ(allocate_bits(candidates, 3.5, 0), (BitAllocation{2, 0}));
}

} // namespace
} // namespace qwen3_mlx
