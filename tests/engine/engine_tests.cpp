// SPDX-License-Identifier: MIT
// The engine on a tiny random model: whatever runs beside it, a text is the
// one that Generate gives for it alone.
#include "engine/engine.h"

#include <gmock/gmock.h>

#include "engine/engine_testing.h"

namespace qwen3_mlx::engine {
namespace {

using testing::Collector;
using testing::mixed_requests;
using testing::TinyChat;

using std::chrono::milliseconds;
using ::testing::HasSubstr;

class EngineTest : public ::testing::TestWithParam<Kernels> {
 protected:
  EngineTest() : tiny_(GetParam()) {}

  Engine& start(EngineOptions options = {}) {
    options.memory.max_bytes =
        options.memory.max_bytes.value_or(std::size_t{256} << 20);
    engine_.emplace(*tiny_.model, *tiny_.tokenizer, options);
    engine_->start(
        [this](StepReport report) { collector_.take(std::move(report)); });
    return *engine_;
  }

  Request request(RequestId id, std::string_view prompt, int max_tokens = 12) {
    Request request;
    request.id = id;
    request.prompt = tiny_.tokenizer->encode(prompt);
    request.max_tokens = max_tokens;
    request.sampling.params.seed = id;
    return request;
  }

  // Submits requests of many kinds at once; each gets the tokens of its own.
  void expect_each_as_alone(int count, const EngineOptions& options);

  std::vector<std::uint32_t> solo(const Request& request) {
    return testing::solo_tokens(*tiny_.model, request);
  }

  TinyChat tiny_;
  Collector collector_;
  std::optional<Engine> engine_;
};

void EngineTest::expect_each_as_alone(int count, const EngineOptions& options) {
  const auto requests = mixed_requests(count, *tiny_.tokenizer);
  auto& engine = start(options);
  for (const auto& request : requests) {
    engine.submit(request);
  }
  for (const auto& request : requests) {
    const auto outcome = collector_.wait_for(request.id);
    EXPECT_EQ(outcome.ids(), solo(request)) << "request " << request.id;
    EXPECT_EQ(outcome.finish, Finish::length);
    EXPECT_EQ(
        outcome.usage.num_prompt, static_cast<int>(request.prompt.size()));
    EXPECT_EQ(outcome.usage.num_generated, request.max_tokens);
    EXPECT_EQ(outcome.text, tiny_.tokenizer->decode(outcome.ids(), true));
  }
  collector_.wait_until([](const EngineStats& stats) {
    return stats.num_running == 0 &&
        stats.num_available_blocks == stats.num_blocks;
  });
}

TEST_P(EngineTest, ManyAtOnceSayWhatEachSaysAlone) {
  EngineOptions options;
  options.max_running = 8;
  options.max_step_tokens = 96;
  // So few blocks that some have to be computed again.
  options.max_context = 512;
  expect_each_as_alone(24, options);
}

TEST_P(EngineTest, DecodingApartFromPromptsChangesNothing) {
  EngineOptions options;
  options.max_running = 12; // more than 8 are filled up to 16
  options.max_step_tokens = 96;
  options.decodes_apart = true;
  expect_each_as_alone(40, options);
}

TEST_P(EngineTest, ChoicesDifferBySeedOnly) {
  auto& engine = start();
  auto asked = request(1, "hello world, how are you?");
  asked.num_choices = 3;
  asked.sampling.params.temperature = 1;
  engine.submit(asked);
  for (int i = 0; i < 3; ++i) {
    auto alone = asked;
    alone.sampling.params.seed = 1 + static_cast<std::uint64_t>(i);
    EXPECT_EQ(collector_.wait_for(1, i).ids(), solo(alone)) << "choice " << i;
  }
}

TEST_P(EngineTest, ASecondTurnFindsTheFirst) {
  auto& engine = start();
  const std::string text(200, 'x');
  engine.submit(request(1, text + "a"));
  const auto first = collector_.wait_for(1);
  engine.submit(request(2, text + "b"));
  const auto second = collector_.wait_for(2);
  EXPECT_EQ(first.usage.num_cached, 0);
  EXPECT_EQ(
      second.usage.num_cached,
      engine.shares_blocks() ? 200 / engine.block_size() * engine.block_size()
                             : 0);
  EXPECT_EQ(second.ids(), solo(request(2, text + "b")));
}

TEST_P(EngineTest, TellsLogprobsOfTheModelItself) {
  auto& engine = start();
  auto asked = request(1, "hello", 4);
  asked.sampling.logprobs = true;
  asked.sampling.top_logprobs = 3;
  engine.submit(asked);
  engine.submit(request(2, "beside it", 4));
  const auto outcome = collector_.wait_for(1);
  ASSERT_EQ(outcome.tokens.size(), 4U);
  for (const auto& token : outcome.tokens) {
    ASSERT_TRUE(token.logprobs.has_value());
    ASSERT_EQ(token.logprobs->top.size(), 3U);
    EXPECT_EQ(token.logprobs->top[0].first, token.id); // greedy
    EXPECT_EQ(token.logprobs->top[0].second, token.logprobs->logprob);
    EXPECT_GE(token.logprobs->top[0].second, token.logprobs->top[1].second);
  }
  EXPECT_FALSE(collector_.wait_for(2).tokens[0].logprobs.has_value());
}

TEST_P(EngineTest, StopStringsAndIdsEndATextAndAreNotShown) {
  auto& engine = start();
  const auto whole = solo(request(1, "hello", 12));
  const auto text = tiny_.tokenizer->decode(whole, true);
  auto by_id = request(1, "hello", 12);
  by_id.stop_ids = {whole[5]};
  engine.submit(by_id);
  EXPECT_EQ(collector_.wait_for(1).finish, Finish::stop);
  auto by_text = request(2, "hello", 12);
  by_text.stop = {tiny_.tokenizer->decode({{whole[3], whole[4]}}, true)};
  by_text.sampling.params.seed = 1;
  engine.submit(by_text);
  const auto outcome = collector_.wait_for(2);
  if (!by_text.stop[0].empty()) {
    EXPECT_EQ(outcome.text, text.substr(0, text.find(by_text.stop[0])));
  }
}

TEST_P(EngineTest, ThinkingEndsWithItsBudget) {
  auto& engine = start();
  auto asked = request(1, "hello", 10);
  asked.thinking = ThinkingBudget{
      .max_tokens = 3,
      .open_id = 262,
      .close_id = 263,
      .starts_open = true,
      .closing = {10, 263, 10}};
  engine.submit(asked);
  const auto ids = collector_.wait_for(1).ids();
  ASSERT_EQ(ids.size(), 10U);
  EXPECT_EQ(
      (std::vector<std::uint32_t>(ids.begin() + 3, ids.begin() + 6)),
      (std::vector<std::uint32_t>{10, 263, 10}));
}

TEST_P(EngineTest, CancellingFreesBlocksAndLeavesOthersAlone) {
  auto& engine = start();
  engine.submit(request(1, "hello", 3000));
  engine.submit(request(2, "hello there", 30));
  engine.cancel(1);
  EXPECT_EQ(collector_.wait_for(2).ids(), solo(request(2, "hello there", 30)));
  collector_.wait_until([](const EngineStats& stats) {
    return stats.num_running + stats.num_waiting == 0 &&
        stats.num_available_blocks == stats.num_blocks;
  });
}

TEST_P(EngineTest, RefusesWhatCannotBe) {
  EngineOptions options;
  options.max_running = 1;
  options.max_waiting = 1;
  options.max_context = 1000;
  auto& engine = start(options);
  EXPECT_THROW(engine.submit(request(1, "hello", 1000)), InvalidArgument);
  auto outside = request(1, "hello", 10);
  outside.prompt.push_back(100'000);
  EXPECT_THROW(engine.submit(outside), InvalidArgument);
  engine.submit(request(2, "hello", 900));
  engine.submit(request(3, "hello", 900));
  EXPECT_THROW(engine.submit(request(4, "hello", 10)), QueueFull);
  engine.stop();
  EXPECT_EQ(collector_.wait_for(2).finish, Finish::shutdown);
  EXPECT_EQ(collector_.wait_for(3).finish, Finish::shutdown);
  EXPECT_THROW(engine.submit(request(5, "hello", 10)), EngineStopped);
}

TEST_P(EngineTest, ADeadlineEndsARequest) {
  auto& engine = start();
  auto asked = request(1, "hello", 3500);
  asked.deadline = Clock::now() + milliseconds(50);
  engine.submit(asked);
  EXPECT_EQ(collector_.wait_for(1).finish, Finish::deadline);
}

INSTANTIATE_TEST_SUITE_P(
    Kernels,
    EngineTest,
    ::testing::Values(Kernels::native, Kernels::stock),
    [](const auto& kernels) {
      return kernels.param == Kernels::native ? "native" : "stock";
    });

TEST(Engine, SaysWhatMemoryIsMissing) {
  const TinyChat tiny(Kernels::native);
  EngineOptions options;
  options.memory.max_bytes = 1 << 16;
  try {
    const Engine engine(*tiny.model, *tiny.tokenizer, options);
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("--max-memory"));
  }
}

} // namespace
} // namespace qwen3_mlx::engine
