// SPDX-License-Identifier: MIT
// The default model's first 64 tokens over all prompts of the golden.
#include "models/default_model.h"

namespace qwen3_mlx::testing {
namespace {

TEST_P(DefaultModel, AnswersEveryPrompt) {
  const auto model = load_model(default_model_path(), on_cpu(GetParam()));
  for (const auto& golden : default_model_goldens()) {
    expect_golden_tokens(model, golden, /* max_tokens */ 64);
  }
}

INSTANTIATE_TEST_SUITE_P(
    Kernels,
    DefaultModel,
    ::testing::Values(Kernels::stock));

} // namespace
} // namespace qwen3_mlx::testing
