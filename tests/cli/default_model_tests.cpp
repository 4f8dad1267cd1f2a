// SPDX-License-Identifier: MIT
// The program on the default model, where scripts/demo has fetched it.

#include <cstdlib>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "cli/program.h"

namespace qwen3_mlx::testing {
namespace {

using ::testing::ContainsRegex;
using ::testing::HasSubstr;

class DefaultModelProgram : public ::testing::Test {
 protected:
  void SetUp() override {
    const char* path = std::getenv("QWEN3_MLX_DEFAULT_MODEL");
    model_ = path != nullptr ? path
                             : QWEN3_MLX_MODELS
        "/SmolLM2-135M-Instruct.Q4_1.gguf";
    if (!std::filesystem::exists(model_)) {
      GTEST_SKIP() << model_ << " is not there; scripts/demo fetches it";
    }
  }

  std::string model_;
};

TEST_F(DefaultModelProgram, KnowsTheCapitalOfFrance) {
  const auto result = run_cli(
      {"generate", "--model", model_, "--temp", "0", "-"},
      "What is the capital of France?\n");
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_EQ(result.out, "The capital of France is Paris.\n");
}

TEST_F(DefaultModelProgram, ChatsOverTwoTurnsOnOneCache) {
  const auto result = run_cli(
      {"chat", "--model", model_, "--temp", "0", "-m", "16", "--verbose"},
      "What is the capital of France?\nAnd of Italy?\n");
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_THAT(result.out, HasSubstr("The capital of France is Paris.\n"));
  EXPECT_THAT(result.out, HasSubstr("Rome"));
  EXPECT_THAT(result.err, HasSubstr("more were in the cache"));
}

TEST_F(DefaultModelProgram, ExamplesRunOnIt) {
  const std::filesystem::path examples = QWEN3_MLX_EXAMPLES;
  EXPECT_EQ(run_program(examples / "generate_qwen3", {model_}).code, 0);
  const auto chat = run_program(
      examples / "chat_qwen3", {model_}, "What is the capital of France?\n");
  EXPECT_EQ(chat.code, 0);
  // What it says is drawn at temperature 0.6, with another seed each time.
  EXPECT_THAT(chat.out, ContainsRegex("Assistant: .*[[:alpha:]]"));
}

} // namespace
} // namespace qwen3_mlx::testing
