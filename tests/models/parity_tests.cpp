// SPDX-License-Identifier: MIT
// Every architecture with every rope type gives transformers' logits and
// greedy tokens: tests/goldens/parity.
#include <gtest/gtest.h>

#include <vector>

#include "qwen3_mlx/generate.h"
#include "qwen3_mlx/model.h"
#include "testing/tiny_model.h"

namespace qwen3_mlx::testing {
namespace {

class Parity : public ::testing::TestWithParam<std::string> {};

TEST_P(Parity, LogitsAndGreedyTokens) {
  const auto [golden, model] = load_tiny_model(GetParam());

  auto cache = model.make_cache();
  const auto logits = model(as_batch(golden.prompt_ids), cache);
  EXPECT_LE(
      max_abs_difference(values_of(logits), golden.logits), kLogitTolerance);

  GenerateOptions options;
  options.max_tokens = static_cast<int>(golden.greedy_ids.size());
  options.stop_ids.emplace(); // none: the golden passes over any end of text
  auto fresh_cache = model.make_cache();
  std::vector<std::uint32_t> ids;
  for (const auto id :
       Generate(model, fresh_cache, golden.prompt_ids, {}, options)) {
    ids.push_back(id);
  }
  EXPECT_EQ(ids, golden.greedy_ids);
}

INSTANTIATE_TEST_SUITE_P(
    Transformers,
    Parity,
    ::testing::ValuesIn(tiny_case_names(parity_goldens())),
    [](const auto& test) { return test_name(test.param); });

} // namespace
} // namespace qwen3_mlx::testing
