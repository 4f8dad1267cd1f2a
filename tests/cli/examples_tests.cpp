// SPDX-License-Identifier: MIT
// The example programs run, and do what their first lines say.

#include <algorithm>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "cli/program.h"
#include "testing/temp_dir.h"

namespace qwen3_mlx::testing {
namespace {

using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::StartsWith;

std::filesystem::path example(const std::string& name) {
  return std::filesystem::path(QWEN3_MLX_EXAMPLES) / name;
}

TEST(Examples, GenerateContinuesAPromptByFiftyTokens) {
  const TempDir folder;
  write_tiny_chat_model(folder.path());
  const auto result = run_program(
      example("generate_qwen3"), {folder.path().string(), "hello there"});
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_THAT(result.out, StartsWith("hello there"));
  EXPECT_THAT(result.out, EndsWith("\n\nGenerated 50 tokens\n"));
}

TEST(Examples, ChatAnswersUntilQuit) {
  const TempDir folder;
  write_tiny_chat_model(folder.path());
  const auto result = run_program(
      example("chat_qwen3"),
      {folder.path().string()},
      "hello\nclear\n\nhello\nquit\nnever\n");
  ASSERT_EQ(result.code, 0) << result.err;
  const std::string name = "Assistant: ";
  std::size_t n_answers = 0;
  for (auto at = result.out.find(name); at != std::string::npos;
       at = result.out.find(name, at + 1)) {
    ++n_answers;
  }
  EXPECT_EQ(n_answers, 2U);
}

TEST(Examples, TheReadmesProgramAnswers) {
  const TempDir folder;
  write_tiny_chat_model(folder.path());
  const auto result =
      run_program(example("readme_example"), {folder.path().string(), "hello"});
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_THAT(result.out, EndsWith("\n"));
  EXPECT_GT(result.out.size(), 1U);
}

TEST(Examples, WrongUsageAndMissingModelsAreTold) {
  for (const std::string name : {"generate_qwen3", "chat_qwen3"}) {
    EXPECT_EQ(run_program(example(name), {}).code, 2);
    const auto result = run_program(example(name), {"/nowhere"});
    EXPECT_EQ(result.code, 1);
    EXPECT_THAT(result.err, HasSubstr("/nowhere"));
  }
}

} // namespace
} // namespace qwen3_mlx::testing
