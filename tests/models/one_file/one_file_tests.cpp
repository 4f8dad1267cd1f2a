// SPDX-License-Identifier: MIT
// Adding an architecture is one file and one row: this program is the library,
// its registry with the row X(parallel), and parallel.cpp.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <string_view>
#include <vector>

#include "models/registry.h"
#include "qwen3_mlx/error.h"
#include "qwen3_mlx/generate.h"
#include "testing/tiny_model.h"

namespace qwen3_mlx::testing {
namespace {

using ::testing::HasSubstr;

// A Llama checkpoint under the new name, without the norms it has no use for.
TinyCase parallel_case() {
  auto tiny = load_tiny_case(parity_goldens(), "llama-linear");
  const std::string llama = R"("llama")";
  const auto at = tiny.config.find(llama);
  EXPECT_NE(at, std::string::npos);
  tiny.config.replace(at, llama.size(), R"("parallel")");
  std::erase_if(tiny.tensors, [](const TinyTensor& tensor) {
    return tensor.name.find("post_attention") != std::string::npos;
  });
  return tiny;
}

class OneFile : public ::testing::TestWithParam<Kernels> {};

TEST_P(OneFile, ALoadedModelGenerates) {
  const auto tiny = parallel_case();
  const TempDir folder;
  write_tiny_checkpoint(tiny, folder.path());
  const auto model = load_model(folder.path(), float32_on_cpu(GetParam()));
  EXPECT_EQ(model.args().model_type, "parallel");

  // The cache, chunks and ragged input come with the blocks it is made of.
  auto whole = model.make_cache();
  const auto logits = values_of(model(as_batch(tiny.prompt_ids), whole));
  auto chunked = model.make_cache();
  const auto size = static_cast<std::size_t>(model.args().vocab_size);
  std::vector<float> stepwise;
  for (const auto id : tiny.prompt_ids) {
    const auto row = values_of(model(as_batch({{id}}), chunked));
    ASSERT_EQ(row.size(), size);
    stepwise.insert(stepwise.end(), row.begin(), row.end());
  }
  EXPECT_LE(max_abs_difference(stepwise, logits), logit_tolerance);
  EXPECT_GT(max_abs_difference(logits, tiny.logits), 1e-2F); // it is no Llama

  auto cache = model.make_cache();
  GenerateOptions options;
  options.max_tokens = 8;
  options.stop_ids.emplace();
  int n_tokens = 0;
  for (const auto id : Generate(model, cache, tiny.prompt_ids, {}, options)) {
    EXPECT_LT(id, size);
    ++n_tokens;
  }
  EXPECT_EQ(n_tokens, 8);
}

INSTANTIATE_TEST_SUITE_P(
    Kernels,
    OneFile,
    ::testing::Values(Kernels::stock, Kernels::native),
    [](const auto& test) {
      return test.param == Kernels::stock ? "stock" : "native";
    });

TEST(OneFile, ItsTensorsAreCheckedLikeAnyModels) {
  auto tiny = parallel_case();
  tiny.tensors.push_back(
      {.name = "model.layers.0.post_attention_layernorm.weight", .shape = {8}});
  const TempDir folder;
  write_tiny_checkpoint(tiny, folder.path());
  try {
    load_model(folder.path(), stock_float32());
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(
        error.what(),
        HasSubstr("model.layers.0.post_attention_layernorm.weight"));
  }
}

TEST(OneFile, ItIsAmongTheKnownOnes) {
  try {
    find_architecture("gpt9");
    FAIL();
  } catch (const InvalidArgument& error) {
    EXPECT_THAT(error.what(), HasSubstr("parallel"));
  }
}

} // namespace
} // namespace qwen3_mlx::testing
