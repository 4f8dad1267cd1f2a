// SPDX-License-Identifier: MIT
// What clients get for what the engine tells, streamed and not.
#include "server/answer.h"

#include <gmock/gmock.h>

#include "server/served_tiny.h"

namespace qwen3_mlx::server {
namespace {

using engine::Event;
using engine::Finish;
using ::testing::HasSubstr;
using ::testing::Not;

CompletionRequest request(bool stream, int n = 1) {
  CompletionRequest request;
  request.prompts.resize(1);
  request.prompts[0].num_choices = n;
  request.stream = {.stream = stream, .include_usage = stream};
  request.parser.tool_calls = ToolCallFormat::hermes_json;
  return request;
}

Event piece(std::string text, int choice = 0) {
  return {.choice = choice, .text = std::move(text)};
}

Event end(Finish reason = Finish::stop, int choice = 0) {
  Event event{.choice = choice, .finish = reason};
  event.usage = {.num_prompt = 5, .num_cached = 2, .num_generated = 3};
  return event;
}

// The JSON of each event of a stream, [DONE] left out.
std::vector<Json> events_of(const std::string& stream) {
  std::vector<Json> events;
  for (std::size_t at = 0; at < stream.size();) {
    const auto stop = stream.find("\n\n", at);
    const auto line = stream.substr(at, stop - at);
    EXPECT_TRUE(line.starts_with("data: ")) << line;
    if (line != "data: [DONE]") {
      events.push_back(Json::parse(line.substr(6)));
    }
    at = stop + 2;
  }
  return events;
}

constexpr const char* call =
    "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": 1}}\n</tool_call>";

TEST(ChatAnswer, PutsTheWholeTogether) {
  const auto model = testing::served_tiny();
  const auto answer = make_chat_answer(model, request(false), "1");
  EXPECT_EQ(answer->take(0, piece("<think>\nhm</think>\n\nHel")), "");
  answer->take(0, piece("lo"));
  EXPECT_FALSE(answer->done());
  answer->take(0, end());
  ASSERT_TRUE(answer->done());
  const auto json = Json::parse(answer->response().body);
  const auto& message = json["choices"][0]["message"];
  EXPECT_EQ(message["content"], "Hello");
  EXPECT_EQ(message["reasoning_content"], "hm");
  EXPECT_EQ(message["reasoning"], "hm");
  EXPECT_EQ(json["choices"][0]["finish_reason"], "stop");
  EXPECT_EQ(json["usage"]["prompt_tokens"], 5);
  EXPECT_EQ(json["usage"]["total_tokens"], 8);
  EXPECT_EQ(json["usage"]["prompt_tokens_details"]["cached_tokens"], 2);
}

TEST(ChatAnswer, StreamsToolCallsAsDeltasWithoutTheirMarkup) {
  const auto model = testing::served_tiny();
  const auto answer = make_chat_answer(model, request(true), "1");
  std::string stream;
  for (const char letter : std::string("Now: ") + call) {
    stream += answer->take(0, piece(std::string(1, letter)));
  }
  stream += answer->take(0, end());
  stream += answer->last_chunks();
  EXPECT_THAT(stream, Not(HasSubstr("tool_call>")));
  std::string content;
  std::string arguments;
  std::string name;
  std::string reason;
  for (const auto& event : events_of(stream)) {
    if (event["choices"].empty()) {
      EXPECT_EQ(event["usage"]["completion_tokens"], 3);
      continue;
    }
    const auto& choice = event["choices"][0];
    const auto& delta = choice["delta"];
    content += delta.value("content", "");
    if (delta.contains("tool_calls")) {
      const auto& function = delta["tool_calls"][0]["function"];
      name += function.value("name", "");
      arguments += function.value("arguments", "");
    }
    if (choice["finish_reason"].is_string()) {
      reason = choice["finish_reason"];
    }
  }
  EXPECT_EQ(name, "f");
  EXPECT_EQ(Json::parse(arguments), Json::parse("{\"a\": 1}"));
  EXPECT_EQ(reason, "tool_calls");
  EXPECT_THAT(content, HasSubstr("Now:"));
}

TEST(ChatAnswer, ShowsACallThatIsNoneAsText) {
  const auto model = testing::served_tiny();
  const auto answer = make_chat_answer(model, request(false), "1");
  answer->take(0, piece("<tool_call>\n{\"name\": \"f\", \"arg"));
  answer->take(0, end(Finish::length));
  const auto json = Json::parse(answer->response().body);
  const auto& choice = json["choices"][0];
  EXPECT_FALSE(choice["message"].contains("tool_calls"));
  EXPECT_THAT(
      choice["message"]["content"].get<std::string>(), HasSubstr("\"arg"));
  EXPECT_EQ(choice["finish_reason"], "length");
}

TEST(ChatAnswer, WaitsForAllChoicesAndTellsFailures) {
  const auto model = testing::served_tiny();
  const auto answer = make_chat_answer(model, request(false, 2), "1");
  answer->take(0, end(Finish::stop, 1));
  EXPECT_FALSE(answer->done());
  auto late = end(Finish::deadline, 0);
  late.error = "too late";
  answer->take(0, late);
  EXPECT_TRUE(answer->done());
  ASSERT_TRUE(answer->failure().has_value());
  EXPECT_EQ(answer->failure()->status, 408);
  EXPECT_THAT(answer->failure()->body, HasSubstr("too late"));
}

TEST(TextAnswer, NumbersChoicesOfSeveralPrompts) {
  const auto model = testing::served_tiny();
  auto two = request(false, 2);
  two.prompts.resize(2);
  two.prompts[1].num_choices = 2;
  const auto answer = make_text_answer(model, two, "1");
  for (int prompt = 0; prompt < 2; ++prompt) {
    for (int choice = 0; choice < 2; ++choice) {
      answer->take(prompt, piece(std::to_string(prompt * 2 + choice), choice));
      answer->take(prompt, end(Finish::length, choice));
    }
  }
  ASSERT_TRUE(answer->done());
  const auto json = Json::parse(answer->response().body);
  for (int idx = 0; idx < 4; ++idx) {
    const auto& choice = json["choices"][static_cast<std::size_t>(idx)];
    EXPECT_EQ(choice["index"], idx);
    EXPECT_EQ(choice["text"], std::to_string(idx));
  }
  EXPECT_EQ(json["usage"]["prompt_tokens"], 10); // each prompt once
  EXPECT_EQ(json["usage"]["completion_tokens"], 12);
}

} // namespace
} // namespace qwen3_mlx::server
