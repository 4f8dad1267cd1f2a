// SPDX-License-Identifier: MIT
// The default model's first tokens, as every push checks them: two prompts.
#include "models/default_model.h"

namespace qwen3_mlx::testing {
namespace {

TEST_P(DefaultModel, AnswersTwoPrompts) {
  const auto goldens = default_model_goldens();
  ASSERT_EQ(goldens.size(), 20U);
  const auto model = load_model(default_model_path(), on_cpu(GetParam()));
  for (const std::size_t idx : {0U, 1U}) {
    expect_golden_tokens(model, goldens[idx], /* max_tokens */ 64);
  }
}

// Stock kernels take minutes for more than a few tokens of this model.
INSTANTIATE_TEST_SUITE_P(
    Kernels,
    DefaultModel,
    ::testing::Values(Kernels::stock));

} // namespace
} // namespace qwen3_mlx::testing
