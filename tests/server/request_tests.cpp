// SPDX-License-Identifier: MIT
// Fields of requests; scripts/server/hostile.py has the many that are refused.
#include "server/completion_request.h"

#include <gmock/gmock.h>

#include "server/api_error.h"
#include "server/served_tiny.h"

namespace qwen3_mlx::server {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

CompletionRequest
parse_text(const std::string& body, const ServedModel& model) {
  return parse_text_request(parse_body(body), model);
}

CompletionRequest
parse_chat(const std::string& body, const ServedModel& model) {
  return parse_chat_request(parse_body(body), model);
}

TEST(Request, TakesEveryFormOfPrompt) {
  const auto model = testing::served_tiny();
  EXPECT_EQ(parse_text(R"({"prompt":"ab"})", model).prompts.size(), 1U);
  EXPECT_EQ(parse_text(R"({"prompt":["a","b"]})", model).prompts.size(), 2U);
  EXPECT_THAT(
      parse_text(R"({"prompt":[1,2]})", model).prompts.at(0).prompt,
      ElementsAre(1, 2));
  const auto lists = parse_text(R"({"prompt":[[1],[2,3]]})", model);
  EXPECT_THAT(lists.prompts.at(1).prompt, ElementsAre(2, 3));
}

TEST(Request, FillsInDefaults) {
  auto model = testing::served_tiny();
  model.defaults.do_sample = true;
  model.defaults.temperature = 0.6F;
  model.defaults.top_k = 20;
  const auto plain = parse_text(R"({"prompt":[1]})", model).prompts.at(0);
  EXPECT_EQ(plain.sampling.params.temperature, 0.6F);
  EXPECT_EQ(plain.sampling.params.top_k, 20);
  EXPECT_EQ(plain.max_tokens, 4095);
  EXPECT_THAT(plain.stop_ids, ElementsAre(264));
  const auto asked =
      parse_text(
          R"({"prompt":[1],"temperature":0,"top_k":-1,"max_tokens":7,
              "ignore_eos":true,"seed":-1,"stop":"x"})",
          model)
          .prompts.at(0);
  EXPECT_EQ(asked.sampling.params.temperature, 0);
  EXPECT_EQ(asked.sampling.params.top_k, 0);
  EXPECT_EQ(asked.max_tokens, 7);
  EXPECT_TRUE(asked.stop_ids.empty());
  EXPECT_EQ(asked.sampling.params.seed, ~std::uint64_t{0});
  EXPECT_THAT(asked.stop, ElementsAre("x"));
}

TEST(Request, CutsMaxTokensToTheContext) {
  auto model = testing::served_tiny();
  model.max_context = 10;
  EXPECT_EQ(
      parse_text(R"({"prompt":[1,2,3],"max_tokens":100})", model)
          .prompts.at(0)
          .max_tokens,
      7);
  try {
    parse_text(R"({"prompt":[1,2,3,4,5,6,7,8,9,10]})", model);
    FAIL() << "accepted";
  } catch (const ApiError& error) {
    EXPECT_EQ(error.code(), "context_length_exceeded");
    EXPECT_THAT(error.what(), HasSubstr("10 tokens"));
  }
}

TEST(Request, ListsUnknownFieldsAndKnowsHarmlessOnes) {
  const auto model = testing::served_tiny();
  const auto request = parse_chat(
      R"({"messages":[{"role":"user","content":"a"}],"user":"u","store":true,
          "colour":"blue"})",
      model);
  EXPECT_THAT(request.unknown_fields, ElementsAre("colour"));
}

TEST(Request, TemplatesAndThinkingReachTheParser) {
  auto model = testing::served_tiny();
  const std::string messages = R"("messages":[{"role":"user","content":"a"}])";
  const auto thinking =
      parse_chat("{" + messages + R"(,"enable_thinking":true})", model);
  EXPECT_TRUE(thinking.parser.starts_in_reasoning);
  EXPECT_FALSE(
      parse_chat("{" + messages + "}", model).parser.starts_in_reasoning);
  const auto tools = parse_chat(
      "{" + messages +
          R"(,"tools":[{"type":"function","function":{"name":"f"}}]})",
      model);
  EXPECT_EQ(tools.parser.tool_calls, ToolCallFormat::hermes_json);
}

TEST(Request, RefusesDeepJsonBeforeParsingIt) {
  const std::string deep(100'000, '[');
  EXPECT_THROW(parse_body(deep), ApiError);
  EXPECT_THROW(parse_body("{\"a\":" + std::string(65, '[')), ApiError);
  EXPECT_NO_THROW(parse_body(R"({"a":"[[[[{{{{"})"));
}

} // namespace
} // namespace qwen3_mlx::server
