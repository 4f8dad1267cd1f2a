// SPDX-License-Identifier: MIT
// Every architecture with every rope type gives transformers' logits and
// greedy tokens: tests/goldens/parity.
#include <gtest/gtest.h>

#include <tuple>
#include <vector>

#include "qwen3_mlx/generate.h"
#include "qwen3_mlx/model.h"
#include "testing/tiny_model.h"

namespace qwen3_mlx::testing {
namespace {

std::vector<std::uint32_t>
greedy_ids(const TinyModel& tiny, int prefill_step_size) {
  GenerateOptions options;
  options.max_tokens = static_cast<int>(tiny.golden.greedy_ids.size());
  options.prefill_step_size = prefill_step_size;
  options.stop_ids.emplace(); // none: the golden passes over any end of text
  auto cache = tiny.model.make_cache();
  std::vector<std::uint32_t> ids;
  for (const auto id :
       Generate(tiny.model, cache, tiny.golden.prompt_ids, {}, options)) {
    ids.push_back(id);
  }
  return ids;
}

class Parity
    : public ::testing::TestWithParam<std::tuple<std::string, Kernels>> {};

TEST_P(Parity, LogitsAndGreedyTokens) {
  const auto tiny = load_tiny_model(
      std::get<0>(GetParam()), float32_on_cpu(std::get<1>(GetParam())));
  auto cache = tiny.model.make_cache();
  const auto logits = tiny.model(as_batch(tiny.golden.prompt_ids), cache);
  EXPECT_LE(
      max_abs_difference(values_of(logits), tiny.golden.logits),
      logit_tolerance);
  // The prompt in one pass, and in chunks: dynamic rope asks for the length of
  // the whole.
  EXPECT_EQ(greedy_ids(tiny, 2048), tiny.golden.greedy_ids);
  EXPECT_EQ(greedy_ids(tiny, 7), tiny.golden.greedy_ids);
}

INSTANTIATE_TEST_SUITE_P(
    Transformers,
    Parity,
    ::testing::Combine(
        ::testing::ValuesIn(tiny_case_names(parity_goldens())),
        ::testing::Values(Kernels::stock, Kernels::native)),
    [](const auto& test) {
      return test_name(std::get<0>(test.param)) +
          (std::get<1>(test.param) == Kernels::stock ? "_stock" : "_native");
    });

} // namespace
} // namespace qwen3_mlx::testing
