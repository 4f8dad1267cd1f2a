// SPDX-License-Identifier: MIT
// What a step on the CPU is made of: this project's operations and views, and
// nothing that MLX computes.
#include <gtest/gtest.h>

#include <map>
#include <set>
#include <unordered_set>

#include "mlx/primitives.h"
#include "models/property_cases.h"
#include "qwen3_mlx/generate.h"
#include "qwen3_mlx/model.h"
#include "qwen3_mlx/sampling.h"

namespace qwen3_mlx::testing {
namespace {

// How often each primitive occurs in what `array` is computed from.
std::map<std::string, int> primitives_of(const mx::array& array) {
  std::map<std::string, int> found;
  std::unordered_set<std::uintptr_t> seen;
  std::vector<mx::array> rest{array};
  while (!rest.empty()) {
    const mx::array next = rest.back();
    rest.pop_back();
    if (!next.has_primitive() || !seen.insert(next.id()).second) {
      continue;
    }
    ++found[next.primitive().name()];
    rest.insert(rest.end(), next.inputs().begin(), next.inputs().end());
  }
  return found;
}

// Names that neither are ours nor only look at memory another way.
std::set<std::string> computed_by_mlx(const mx::array& array) {
  static const std::set<std::string> views{
      "Slice", "Reshape", "Flatten", "Unflatten", "ExpandDims", "Squeeze"};
  std::set<std::string> names;
  for (const auto& [name, count] : primitives_of(array)) {
    if (!name.starts_with("Cpu") && !views.contains(name)) {
      names.insert(name);
    }
  }
  return names;
}

class NativeSteps : public ::testing::TestWithParam<std::string> {
 protected:
  NativeSteps()
      : tiny_(load_tiny_model(GetParam(), float32_on_cpu(Kernels::native))),
        tokens_(tiny_.golden.prompt_ids) {}

  mx::array logits(
      std::vector<KVCache>& cache,
      std::size_t first,
      std::size_t count,
      std::optional<std::vector<int>> rows = {}) {
    StepInput step{
        .tokens = mx::array(
            tokens_.data() + first,
            mx::Shape{static_cast<int>(count)},
            mx::uint32),
        .logits_rows = std::move(rows)};
    step.segments.push_back(
        {.cache = cache, .length = static_cast<int>(count)});
    return tiny_.model.forward(step);
  }

  TinyModel tiny_;
  std::vector<std::uint32_t> tokens_;
};

TEST_P(NativeSteps, AreMadeOfOwnOperations) {
  const int vocab_size = tiny_.model.args().vocab_size;
  auto cache = tiny_.model.make_cache({});
  const auto prefill = logits(cache, 0, 30, std::vector<int>{29});
  EXPECT_EQ(computed_by_mlx(prefill), std::set<std::string>());
  mx::eval(prefill);
  for (const SamplingParams& params : std::vector<SamplingParams>{
           {}, {.temperature = 0.7F, .top_p = 0.8F, .top_k = 20}}) {
    SequenceSampler sampler(params, vocab_size, tokens_);
    const auto token = sampler(logits(cache, 30, 1));
    EXPECT_EQ(computed_by_mlx(token), std::set<std::string>());
    mx::eval(token);
  }
}

// What follows the last layer's attention is computed for the wanted rows
// alone, with the same bits.
TEST_P(NativeSteps, WantedRowsAreThoseOfTheWhole) {
  auto cache = tiny_.model.make_cache({});
  const auto whole = values_of(logits(cache, 0, 30));
  const std::size_t size = whole.size() / 30;
  for (const std::vector<int>& rows :
       {std::vector<int>{29},
        std::vector<int>{0},
        std::vector<int>{2, 3, 17}}) {
    auto fresh = tiny_.model.make_cache({});
    const auto some = values_of(logits(fresh, 0, 30, rows));
    ASSERT_EQ(some.size(), rows.size() * size);
    for (std::size_t idx = 0; idx < rows.size(); ++idx) {
      const auto row = static_cast<std::size_t>(rows[idx]);
      EXPECT_TRUE(std::equal(
          some.begin() + static_cast<std::ptrdiff_t>(idx * size),
          some.begin() + static_cast<std::ptrdiff_t>((idx + 1) * size),
          whole.begin() + static_cast<std::ptrdiff_t>(row * size)));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Models,
    NativeSteps,
    ::testing::Values(
        "qwen3-default",
        "qwen3_moe-default",
        "qwen2-mha-head-dim-64",
        "llama-bias-head-dim-32"),
    [](const auto& test) { return test_name(test.param); });

} // namespace
} // namespace qwen3_mlx::testing
