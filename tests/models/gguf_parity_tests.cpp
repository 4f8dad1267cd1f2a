// SPDX-License-Identifier: MIT
// A checkpoint gives the same logits from a GGUF file as from its directory.
#include <gtest/gtest.h>

#include "qwen3_mlx/model.h"
#include "testing/temp_dir.h"
#include "testing/tiny_gguf.h"
#include "testing/tiny_model.h"

namespace qwen3_mlx::testing {
namespace {

class GgufParity
    : public ::testing::TestWithParam<std::tuple<std::string, Kernels>> {};

TEST_P(GgufParity, LogitsEqualTheGolden) {
  const auto golden = load_tiny_case(parity_goldens(), std::get<0>(GetParam()));
  const TempDir folder;
  const auto path = folder.path() / "model.gguf";
  write_tiny_gguf(golden, path);
  const auto model = load_model(path, float32_on_cpu(std::get<1>(GetParam())));
  auto cache = model.make_cache();
  EXPECT_LE(
      max_abs_difference(
          values_of(model(as_batch(golden.prompt_ids), cache)), golden.logits),
      logit_tolerance);
}

INSTANTIATE_TEST_SUITE_P(
    Architectures,
    GgufParity,
    ::testing::Combine(
        ::testing::Values(
            "llama-tied",
            "llama-bias-head-dim-32",
            "llama-linear",
            "qwen2-default",
            "qwen2-tied",
            "qwen2-mha-head-dim-64",
            "qwen3-default",
            "qwen3-tied-mqa-head-dim-16",
            "qwen3-yarn",
            "qwen3_moe-default",
            "qwen3_moe-linear"),
        ::testing::Values(Kernels::stock, Kernels::native)),
    [](const auto& test) {
      return test_name(std::get<0>(test.param)) +
          (std::get<1>(test.param) == Kernels::stock ? "_stock" : "_native");
    });

} // namespace
} // namespace qwen3_mlx::testing
