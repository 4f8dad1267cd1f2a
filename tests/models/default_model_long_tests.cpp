// SPDX-License-Identifier: MIT
// The default model's first 64 tokens over all prompts of the goldens. Stock
// kernels take a quarter of a second a token.
#include "models/default_model.h"

namespace qwen3_mlx::testing {
namespace {

TEST_P(DefaultModel, GivesTheGoldenTokens) {
  expect_golden_tokens();
}

INSTANTIATE_TEST_SUITE_P(
    AllPrompts,
    DefaultModel,
    ::testing::Combine(
        ::testing::Values(Kernels::stock, Kernels::native),
        ::testing::Range<std::size_t>(0, 20)),
    default_model_test_name);

} // namespace
} // namespace qwen3_mlx::testing
