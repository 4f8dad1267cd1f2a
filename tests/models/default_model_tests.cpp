// SPDX-License-Identifier: MIT
// The default model's first tokens for two prompts: what every push checks.
#include "models/default_model.h"

namespace qwen3_mlx::testing {
namespace {

TEST_P(DefaultModel, GivesTheGoldenTokens) {
  expect_golden_tokens();
}

INSTANTIATE_TEST_SUITE_P(
    TwoPrompts,
    DefaultModel,
    ::testing::Combine(
        ::testing::Values(Kernels::stock, Kernels::native),
        ::testing::Values<std::size_t>(0, 1)),
    default_model_test_name);

TEST(DefaultModelGoldens, AnswerTheCapitalOfFrance) {
  const auto goldens = default_model_goldens();
  ASSERT_EQ(goldens.size(), 20U);
  EXPECT_EQ(goldens[0].prompt, "What is the capital of France?");
  EXPECT_EQ(
      goldens[0].ids,
      (std::vector<std::uint32_t>{504, 3575, 282, 4649, 314, 7042, 30, 2}));
}

} // namespace
} // namespace qwen3_mlx::testing
