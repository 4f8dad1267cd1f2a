// SPDX-License-Identifier: MIT
// Draws, batches, dtypes, log-probabilities and NaN.
#include "qwen3_mlx/sampling.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <set>

#include "qwen3_mlx/error.h"

namespace qwen3_mlx {
namespace {

constexpr int vocab_size = 1000;
const float nan = std::numeric_limits<float>::quiet_NaN();
const float infinity = std::numeric_limits<float>::infinity();

mx::array random_logits(int num_rows, std::uint64_t seed) {
  return mx::multiply(
      mx::random::normal(
          {num_rows, vocab_size}, mx::float32, mx::random::key(seed)),
      mx::array(3.0F));
}

std::vector<std::uint32_t> ids_of(mx::array ids) {
  ids = mx::contiguous(ids);
  ids.eval();
  return {ids.data<std::uint32_t>(), ids.data<std::uint32_t>() + ids.size()};
}

// Every way through the sampler.
std::vector<SamplingParams> all_ways() {
  return {
      {},
      {.temperature = 1},
      {.temperature = 0.6F, .top_p = 0.95F, .top_k = 20},
      {.temperature = 0.8F, .top_p = 0.9F},
      {.temperature = 0.8F, .min_p = 0.05F},
      {.temperature = 0.8F,
       .top_k = 30,
       .xtc_probability = 0.5F,
       .xtc_threshold = 0.05F},
      {.temperature = 0.8F, .repetition_penalty = 1.1F},
      {.frequency_penalty = 0.3F},
      {.temperature = 1, .logit_bias = {{5, 4.0F}}},
  };
}

// The CPU's kernel sums in another order: a draw may fall to the neighbour of
// the composed form's token where it hits the border between both.
TEST(Sampler, TheKernelDrawsWhatTheDefinitionDraws) {
  constexpr int num_rows = 200;
  const auto logits = random_logits(num_rows, 21);
  const auto draws =
      mx::random::uniform({num_rows, 2}, mx::float32, mx::random::key(22));
  const auto window = mx::random::randint(
      -1, vocab_size, {num_rows, 20}, mx::int32, mx::random::key(23));
  auto ways = all_ways();
  ways.push_back({.temperature = 0.7F, .min_p = 0.1F, .min_tokens_to_keep = 3});
  ways.push_back({.temperature = 1.3F, .top_k = 1});
  ways.push_back({.temperature = 1, .top_p = 0.999F, .min_p = 1e-4F});
  ways.push_back(
      {.temperature = 0.9F,
       .top_p = 0.8F,
       .min_p = 0.2F,
       .min_tokens_to_keep = 4,
       .top_k = 50,
       .repetition_penalty = 1.2F,
       .presence_penalty = 0.5F,
       .logit_bias = {{7, -2.0F}, {9, 3.0F}}});
  ways.push_back(
      {.temperature = 1,
       .xtc_probability = 1,
       .xtc_threshold = 0.01F,
       .xtc_special_tokens = {3, 4}});
  for (const mx::Dtype dtype : {mx::float32, mx::float16, mx::bfloat16}) {
    const auto typed = mx::astype(logits, dtype);
    for (std::size_t way = 0; way < ways.size(); ++way) {
      const Sampler sampler(ways[way], vocab_size);
      const auto expected = ids_of(sampler.composed(typed, draws, window));
      const auto found = ids_of(sampler(typed, draws, window));
      int num_different = 0;
      for (std::size_t row = 0; row < num_rows; ++row) {
        num_different += found[row] != expected[row] ? 1 : 0;
      }
      // Equal bfloat16 logits may stand on both sides of the k-th.
      EXPECT_LE(num_different, dtype == mx::float32 ? 0 : 8) << way;
    }
  }
}

TEST(Sampler, RowsDoNotDependOnTheirNeighbours) {
  constexpr int num_rows = 5;
  const auto logits = random_logits(num_rows, 1);
  const auto draws =
      mx::random::uniform({num_rows, 2}, mx::float32, mx::random::key(2));
  const auto window =
      mx::random::randint(-1, vocab_size, {num_rows, 20}, mx::int32);
  for (const auto& params : all_ways()) {
    const Sampler sampler(params, vocab_size);
    const auto together = ids_of(sampler(logits, draws, window));
    for (int row = 0; row < num_rows; ++row) {
      const auto one = [row](const mx::array& x) {
        return mx::slice(x, {row, 0}, {row + 1, x.shape(1)});
      };
      EXPECT_EQ(
          ids_of(sampler(one(logits), one(draws), one(window)))[0],
          together[static_cast<std::size_t>(row)]);
    }
  }
}

TEST(Sampler, TakesHalfPrecisionLogits) {
  for (const auto& dtype : {mx::float16, mx::bfloat16}) {
    const auto logits = mx::astype(random_logits(3, 3), dtype);
    const auto draws = mx::full({3, 2}, 0.5F);
    const auto window = mx::full({3, 20}, -1, mx::int32);
    for (const auto& params : all_ways()) {
      const Sampler sampler(params, vocab_size);
      EXPECT_EQ(
          ids_of(sampler(logits, draws, window)),
          ids_of(sampler(mx::astype(logits, mx::float32), draws, window)));
    }
  }
}

TEST(SequenceSampler, SameSeedSameTokens) {
  const std::vector<std::uint32_t> prompt{1, 2, 3};
  for (auto params : all_ways()) {
    params.seed = 11;
    SequenceSampler first(params, vocab_size, prompt);
    SequenceSampler second(params, vocab_size, prompt);
    for (std::uint64_t step = 0; step < 8; ++step) {
      const auto logits = random_logits(1, step);
      EXPECT_EQ(ids_of(first(logits)), ids_of(second(logits)));
    }
  }
}

TEST(SequenceSampler, SeedsDifferWhenNoneIsGiven) {
  const SamplingParams params{.temperature = 1};
  EXPECT_NE(
      SequenceSampler(params, vocab_size, {}).seed(),
      SequenceSampler(params, vocab_size, {}).seed());
}

TEST(SequenceSampler, DrawsAsTheDistributionSays) {
  const std::vector<float> probs{0.5F, 0.25F, 0.0F, 0.15F, 0.1F};
  std::vector<float> logits;
  for (const float prob : probs) {
    logits.push_back(std::log(prob));
  }
  const mx::array row(logits.data(), mx::Shape{1, 5});
  SequenceSampler sampler({.temperature = 1, .seed = 3}, 5, {});
  constexpr int num_draws = 4000;
  std::vector<int> counts(5);
  for (int idx = 0; idx < num_draws; ++idx) {
    ++counts[ids_of(sampler(row))[0]];
  }
  EXPECT_EQ(counts[2], 0);
  double chi_squared = 0;
  for (std::size_t id = 0; id < probs.size(); ++id) {
    if (probs[id] > 0) {
      const double expected = static_cast<double>(probs[id]) * num_draws;
      chi_squared += std::pow(counts[id] - expected, 2) / expected;
    }
  }
  // 3 degrees of freedom: above 16.3 once in a thousand seeds, and this seed
  // is fixed.
  EXPECT_LT(chi_squared, 16.3);
}

// The ends of the interval, over a long row where the sum of float32 numbers
// is not exactly 1.
TEST(SampleInverseCdf, NeverDrawsADroppedToken) {
  constexpr int row_size = 151936;
  auto logits =
      mx::random::normal({1, row_size}, mx::float32, mx::random::key(5));
  const auto dropped = mx::greater(
      mx::random::uniform({1, row_size}, mx::float32, mx::random::key(6)),
      mx::array(0.01F));
  logits = mx::where(dropped, mx::array(-infinity), logits);
  logits.eval();
  for (const float number : {0.0F, 0x1p-23F, 0.5F, 1.0F - 0x1p-23F}) {
    const auto id = ids_of(sample_inverse_cdf(
        logits, mx::full({1}, number), /* temperature */ 1))[0];
    auto chosen = mx::slice(
        logits, {0, static_cast<int>(id)}, {1, static_cast<int>(id) + 1});
    EXPECT_TRUE(std::isfinite(chosen.item<float>())) << number;
  }
}

TEST(Sampler, XtcAppliesByItsOwnDraw) {
  // Two likely tokens: XTC drops the likelier.
  const mx::array logits({5.0F, 4.5F, -9.0F}, {1, 3});
  const Sampler sampler(
      {.temperature = 1, .xtc_probability = 0.5F, .xtc_threshold = 0.1F}, 3);
  const auto window = mx::zeros({1, 0}, mx::int32);
  const auto sampled = [&](float token, float xtc) {
    return ids_of(sampler(logits, mx::array({token, xtc}, {1, 2}), window))[0];
  };
  EXPECT_EQ(sampled(0.1F, 0.9F), 0U);
  EXPECT_EQ(sampled(0.1F, 0.4F), 1U);
}

TEST(Sampler, TiesAndExtremesStillGiveATokenOfTheRow) {
  const auto flat = mx::zeros({1, vocab_size});
  const auto draws = mx::full({1, 2}, 1.0F - 0x1p-23F);
  const auto window = mx::full({1, 20}, -1, mx::int32);
  for (auto params : all_ways()) {
    EXPECT_LT(
        ids_of(Sampler(params, vocab_size)(flat, draws, window))[0],
        static_cast<std::uint32_t>(vocab_size));
    if (params.temperature > 0) {
      params.temperature = 1e-40F;
      EXPECT_LT(
          ids_of(Sampler(params, vocab_size)(
              random_logits(1, 9), draws, window))[0],
          static_cast<std::uint32_t>(vocab_size));
    }
  }
  // One token of vocabulary, more asked for than there are.
  const Sampler one({.temperature = 1, .top_p = 0.5F, .top_k = 50}, 1);
  EXPECT_EQ(ids_of(one(mx::zeros({1, 1}), draws, window))[0], 0U);
}

TEST(Sample, TemperatureZeroIsGreedy) {
  const mx::array logits({0.5F, 2.0F, -1.0F, 9.0F, 1.0F, 0.0F}, {2, 3});
  EXPECT_EQ(ids_of(sample(logits, 0)), (std::vector<std::uint32_t>{1, 0}));
}

TEST(Sample, DrawsWithTheKey) {
  const auto logits = random_logits(4, 1);
  const auto key = mx::random::key(1);
  EXPECT_EQ(ids_of(sample(logits, 1, key)), ids_of(sample(logits, 1, key)));
}

TEST(FiniteRows, FindsNanAndInfinity) {
  const std::vector<float> numbers{
      1, 2, 3, 1, nan, 3, infinity, 2, 3, -infinity, 1, 1};
  for (const auto& dtype : {mx::float32, mx::float16, mx::bfloat16}) {
    auto finite = finite_rows(
        mx::astype(mx::array(numbers.data(), mx::Shape{4, 3}), dtype));
    finite.eval();
    const bool* rows = finite.data<bool>();
    EXPECT_TRUE(rows[0]);
    EXPECT_FALSE(rows[1]);
    EXPECT_FALSE(rows[2]);
    EXPECT_FALSE(rows[3]);
  }
}

TEST(LogProbs, RanksTheMostLikely) {
  const mx::array logits({1.0F, 3.0F, 2.0F, 0.0F}, {1, 4});
  const auto log_total =
      std::log(std::exp(1.0F) + std::exp(3.0F) + std::exp(2.0F) + 1.0F);
  const mx::array chosen({2}, {1}, mx::uint32);
  for (const int num_top : {0, 1, 3, 4}) {
    auto [log_prob, top_ids, top] = log_probs_of(logits, chosen, num_top);
    mx::eval(log_prob, top_ids, top);
    EXPECT_NEAR(log_prob.item<float>(), 2.0F - log_total, 1e-6);
    ASSERT_EQ(top_ids.shape(), (mx::Shape{1, num_top}));
    const std::vector<std::uint32_t> expected{1, 2, 0, 3};
    for (int rank = 0; rank < num_top; ++rank) {
      EXPECT_EQ(
          top_ids.data<std::uint32_t>()[rank],
          expected[static_cast<std::size_t>(rank)]);
      EXPECT_NEAR(
          top.data<float>()[rank],
          static_cast<float>(3 - rank) - log_total,
          1e-6);
    }
  }
  EXPECT_THROW(log_probs_of(logits, chosen, 5), InvalidArgument);
}

} // namespace
} // namespace qwen3_mlx
