// SPDX-License-Identifier: MIT
// The engine one step ahead: a text is the one that Generate gives for it
// alone, whatever ends it, replaces its tokens or takes its place.
#include <thread>

#include <gmock/gmock.h>

#include "engine/engine_testing.h"

namespace qwen3_mlx::engine {
namespace {

using std::chrono::milliseconds;
using testing::Collector;
using testing::mixed_requests;
using testing::Outcome;
using testing::TinyChat;

struct Form {
  std::string name;
  Kernels kernels;
  CacheOptions caches;
};

class AheadTest : public ::testing::TestWithParam<Form> {
 protected:
  AheadTest() : tiny_(GetParam().kernels) {}

  Engine& start(EngineOptions options = {}) {
    options.kv = GetParam().caches;
    options.decodes_apart = true; // as where decode steps are recorded
    options.goes_ahead = true;
    options.memory.max_bytes = std::size_t{256} << 20;
    engine_.emplace(*tiny_.model, *tiny_.tokenizer, options);
    engine_->start([this](StepReport report) {
      num_tokens_ahead_ = report.stats.num_tokens_ahead;
      collector_.take(std::move(report));
    });
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

  std::vector<std::uint32_t> solo(const Request& request) {
    return testing::solo_tokens(*tiny_.model, request, GetParam().caches);
  }

  TinyChat tiny_;
  Collector collector_;
  std::atomic<std::uint64_t> num_tokens_ahead_{0};
  std::optional<Engine> engine_;
};

TEST_P(AheadTest, ManyOfUnequalLengthsThatComeOneByOne) {
  auto requests = mixed_requests(36, *tiny_.tokenizer);
  for (auto& request : requests) {
    if (request.id % 5 == 0) { // some end before their length
      request.stop_ids = {97, 98, 99, 100};
    }
  }
  EngineOptions options;
  options.max_running = 12; // more than 8 are filled up to 16
  options.max_step_tokens = 96;
  auto& engine = start(options);
  std::uint64_t num_tokens = 0;
  for (const auto& request : requests) {
    engine.submit(request);
    if (request.id % 4 == 0) {
      std::this_thread::sleep_for(milliseconds(3));
    }
  }
  for (const auto& request : requests) {
    const auto outcome = collector_.wait_for(request.id);
    const auto expected = solo(request);
    num_tokens += expected.size();
    EXPECT_EQ(outcome.ids(), expected) << "request " << request.id;
    const bool is_stopped = !request.stop_ids.empty() &&
        std::ranges::find(request.stop_ids, expected.back()) !=
            request.stop_ids.end();
    EXPECT_EQ(outcome.finish, is_stopped ? Finish::stop : Finish::length);
  }
  collector_.wait_until([](const EngineStats& stats) {
    return stats.num_running == 0 &&
        stats.num_available_blocks == stats.num_blocks;
  });
  // All but first tokens, those of rows that had to be computed after all, and
  // those of steps that had nothing to begin.
  EXPECT_GT(num_tokens_ahead_, num_tokens * 3 / 4);
  EXPECT_LE(num_tokens_ahead_, num_tokens - requests.size());
}

TEST_P(AheadTest, StopStringsEndATextAndAreNotShown) {
  auto& engine = start();
  auto asked = request(1, "hello", 12);
  const auto whole = solo(asked);
  const auto text = tiny_.tokenizer->decode(whole, true);
  asked.stop = {tiny_.tokenizer->decode({{whole[3], whole[4]}}, true)};
  engine.submit(asked);
  engine.submit(request(2, "goes on beside it", 20));
  const auto outcome = collector_.wait_for(1);
  if (!asked.stop[0].empty()) {
    EXPECT_EQ(outcome.text, text.substr(0, text.find(asked.stop[0])));
  }
  EXPECT_EQ(
      collector_.wait_for(2).ids(), solo(request(2, "goes on beside it", 20)));
}

// The next step has begun from the model's token, and not from that one.
TEST_P(AheadTest, ATokenThatIsReplacedIsTheOneThatCounts) {
  auto& engine = start();
  auto asked = request(1, "hello", 16);
  asked.thinking = ThinkingBudget{
      .max_tokens = 3,
      .open_id = 262,
      .close_id = 263,
      .starts_open = true,
      .closing = {10, 263, 10}};
  engine.submit(asked);
  engine.submit(request(2, "beside it", 16));
  const auto ids = collector_.wait_for(1).ids();
  ASSERT_EQ(ids.size(), 16U);

  auto before = request(3, "hello", 3);
  const auto thought = solo(before);
  auto after = request(4, "hello", 10);
  after.prompt.insert(after.prompt.end(), thought.begin(), thought.end());
  after.prompt.insert(after.prompt.end(), {10, 263, 10});
  auto expected = thought;
  expected.insert(expected.end(), {10, 263, 10});
  const auto rest = solo(after);
  expected.insert(expected.end(), rest.begin(), rest.end());
  EXPECT_EQ(ids, expected);
  EXPECT_EQ(collector_.wait_for(2).ids(), solo(request(2, "beside it", 16)));
}

TEST_P(AheadTest, LogprobsAndChoicesAreThoseOfAStepAtATime) {
  const auto ask = [&](RequestId first) {
    std::vector<Request> asked{
        request(first, "hello world", 10),
        request(first + 1, "other words", 14),
        request(first + 2, "and others", 8)};
    asked[0].num_choices = 3;
    asked[0].sampling.params.temperature = 1;
    asked[0].sampling.params.seed = 7;
    asked[0].sampling.top_logprobs = 2;
    asked[1].sampling.logprobs = true;
    asked[1].sampling.params.seed = 8;
    asked[2].sampling.params.repetition_penalty = 1.3F;
    asked[2].sampling.params.penalty_window = 1;
    asked[2].sampling.params.seed = 9;
    return asked;
  };
  const auto outcomes = [&](Engine& engine, RequestId first) {
    std::vector<Outcome> all;
    const auto asked = ask(first);
    for (const auto& request : asked) {
      engine.submit(request);
    }
    for (const auto& request : asked) {
      for (int choice = 0; choice < request.num_choices; ++choice) {
        all.push_back(collector_.wait_for(request.id, choice));
      }
    }
    return all;
  };
  const auto ahead = outcomes(start(), 1);
  EngineOptions options;
  options.kv = GetParam().caches;
  options.memory.max_bytes = std::size_t{256} << 20;
  options.goes_ahead = false;
  engine_.emplace(*tiny_.model, *tiny_.tokenizer, options);
  engine_->start(
      [this](StepReport report) { collector_.take(std::move(report)); });
  const auto plain = outcomes(*engine_, 11);
  ASSERT_EQ(ahead.size(), plain.size());
  for (std::size_t i = 0; i < plain.size(); ++i) {
    SCOPED_TRACE(i);
    EXPECT_EQ(ahead[i].ids(), plain[i].ids());
    for (std::size_t at = 0; at < plain[i].tokens.size(); ++at) {
      const auto& a = ahead[i].tokens[at].logprobs;
      const auto& b = plain[i].tokens[at].logprobs;
      ASSERT_EQ(a.has_value(), b.has_value());
      if (a) {
        EXPECT_NEAR(a->logprob, b->logprob, 1e-4F);
        ASSERT_EQ(a->top.size(), b->top.size());
        for (std::size_t rank = 0; rank < a->top.size(); ++rank) {
          EXPECT_EQ(a->top[rank].first, b->top[rank].first);
        }
      }
    }
  }
}

TEST_P(AheadTest, CancelsAndDeadlinesLeaveOthersAlone) {
  auto& engine = start();
  engine.submit(request(1, "hello", 3'000));
  auto late = request(2, "hello you", 3'000);
  late.deadline = Clock::now() + milliseconds(40);
  engine.submit(late);
  engine.submit(request(3, "hello there", 60));
  std::this_thread::sleep_for(milliseconds(10));
  engine.cancel(1);
  EXPECT_EQ(collector_.wait_for(2).finish, Finish::deadline);
  EXPECT_EQ(collector_.wait_for(3).ids(), solo(request(3, "hello there", 60)));
  collector_.wait_until([](const EngineStats& stats) {
    return stats.num_running + stats.num_waiting == 0 &&
        stats.num_available_blocks == stats.num_blocks;
  });
}

TEST_P(AheadTest, StopsInTheMiddle) {
  auto& engine = start();
  engine.submit(request(1, "hello", 3'000));
  std::this_thread::sleep_for(milliseconds(10));
  engine.stop();
  EXPECT_EQ(collector_.wait_for(1).finish, Finish::shutdown);
}

INSTANTIATE_TEST_SUITE_P(
    Caches,
    AheadTest,
    ::testing::Values(
        Form{"growing", Kernels::stock, {}},
        Form{
            "quantized",
            Kernels::native,
            {.kv_bits = 8, .kv_group_size = 32, .quantized_kv_start = 48}}),
    [](const auto& form) { return form.param.name; });

} // namespace
} // namespace qwen3_mlx::engine
