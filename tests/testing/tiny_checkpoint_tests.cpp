// SPDX-License-Identifier: MIT
// The C++ generator of tiny checkpoints makes the weights of the Python one.
#include "testing/tiny_checkpoint.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace qwen3_mlx::testing {
namespace {

const std::filesystem::path goldens =
    std::filesystem::path(QWEN3_MLX_TEST_DATA) / "parity";

TEST(TinyCheckpoint, WeightsEqualThoseOfTheScript) {
  const auto names = tiny_case_names(goldens);
  ASSERT_FALSE(names.empty());
  for (const auto& name : names) {
    const auto tiny_case = load_tiny_case(goldens, name);
    EXPECT_EQ(tiny_checksum(tiny_case), tiny_case.checksum) << name;
  }
}

TEST(TinyCheckpoint, CasesCoverEveryArchitectureAndRopeType) {
  const auto all = tiny_case_names(goldens);
  for (const std::string architecture :
       {"qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "llama"}) {
    for (const std::string rope : {"linear", "dynamic", "yarn", "llama3"}) {
      const auto prefix = architecture + "-" + rope;
      EXPECT_TRUE(std::any_of(all.begin(), all.end(), [&](const auto& name) {
        return name.starts_with(prefix);
      })) << prefix;
    }
  }
}

} // namespace
} // namespace qwen3_mlx::testing
