// SPDX-License-Identifier: MIT
// The scheduler's policies, one by one; simulation_tests.cpp has the rest.
#include "engine/scheduler.h"

#include <map>
#include <set>

#include <gmock/gmock.h>

#include "qwen3_mlx/error.h"

namespace qwen3_mlx::engine {
namespace {

using std::chrono::milliseconds;
using ::testing::HasSubstr;

SchedulerOptions options() {
  SchedulerOptions options;
  options.blocks = {.num_blocks = 64, .block_size = 4, .max_cached_blocks = 64};
  options.max_running = 8;
  options.max_step_tokens = 16;
  options.max_idle_step_tokens = 16;
  options.max_context = 200;
  return options;
}

NewSequence text(
    SequenceId id,
    int length,
    const std::string& user = "",
    int priority = 0) {
  NewSequence sequence;
  sequence.id = id;
  sequence.prompt.assign(
      static_cast<std::size_t>(length), static_cast<std::uint32_t>(id));
  sequence.max_tokens = 50;
  sequence.user = user;
  sequence.priority = priority;
  sequence.arrival = TimePoint(milliseconds(id));
  return sequence;
}

// Runs a step in which every token is 1; returns tokens of each sequence.
std::map<SequenceId, int>
step(Scheduler& scheduler, TimePoint now = TimePoint(milliseconds(1'000))) {
  const auto plan = scheduler.plan(now);
  std::map<SequenceId, int> lengths;
  std::vector<SequenceId> grown;
  for (const auto& chunk : plan.chunks) {
    lengths[chunk.sequence->id] = chunk.length;
    if (chunk.wants_token()) {
      grown.push_back(chunk.sequence->id);
    }
  }
  scheduler.commit(plan);
  for (const auto id : grown) {
    scheduler.append(id, 1);
  }
  return lengths;
}

using Lengths = std::map<SequenceId, int>;

TEST(Scheduler, ReadsAPromptInChunksWhileOthersDecode) {
  Scheduler scheduler(options());
  scheduler.add(text(1, 3));
  EXPECT_EQ(step(scheduler), (Lengths{{1, 3}}));
  scheduler.add(text(2, 40));
  EXPECT_EQ(step(scheduler), (Lengths{{1, 1}, {2, 16}}));
  EXPECT_EQ(step(scheduler), (Lengths{{1, 1}, {2, 16}}));
  EXPECT_EQ(step(scheduler), (Lengths{{1, 1}, {2, 8}}));
  EXPECT_EQ(step(scheduler), (Lengths{{1, 1}, {2, 1}}));
}

TEST(Scheduler, ReadsMoreAtOnceWhereNobodyDecodes) {
  auto more = options();
  more.max_idle_step_tokens = 32;
  Scheduler scheduler(more);
  scheduler.add(text(1, 30));
  EXPECT_EQ(step(scheduler), (Lengths{{1, 30}}));
  scheduler.add(text(2, 30));
  EXPECT_EQ(step(scheduler), (Lengths{{1, 1}, {2, 16}}));
}

TEST(Scheduler, AShortPromptDoesNotWaitForALongOne) {
  Scheduler scheduler(options());
  scheduler.add(text(1, 100));
  step(scheduler);
  scheduler.add(text(2, 6));
  EXPECT_EQ(step(scheduler), (Lengths{{1, 10}, {2, 6}}));
}

TEST(Scheduler, ALongPromptIsNotStarvedByShortOnes) {
  Scheduler scheduler(options());
  scheduler.add(text(1, 100));
  step(scheduler);
  for (SequenceId id = 2; id < 7; ++id) {
    scheduler.add(text(id, 8));
  }
  EXPECT_EQ(step(scheduler).at(1), 8);
}

TEST(Scheduler, UsersShareEvenly) {
  Scheduler scheduler(options());
  for (SequenceId id = 1; id <= 6; ++id) {
    scheduler.add(text(id, 16, "greedy"));
  }
  step(scheduler);
  scheduler.add(text(7, 16, "modest"));
  step(scheduler);                     // from here on "greedy" has had more
  EXPECT_GE(step(scheduler).at(7), 8); // all that the oldest leaves
}

TEST(Scheduler, UrgentOnesAreLetInFirstAndWaitingMakesUrgent) {
  auto one = options();
  one.max_running = 1;
  Scheduler scheduler(one);
  scheduler.add(text(1, 4, "", /* priority */ 1));
  scheduler.add(text(2, 4, "", /* priority */ 0));
  EXPECT_EQ(step(scheduler), (Lengths{{2, 4}}));
  scheduler.remove(2);
  auto late = text(3, 4, "", 0);
  late.arrival = TimePoint(milliseconds(60'000));
  scheduler.add(late);
  EXPECT_EQ(
      step(scheduler, TimePoint(milliseconds(60'000))), (Lengths{{1, 4}}));
}

TEST(Scheduler, PlansAheadWhatGoesOnAndGivesItRoom) {
  Scheduler scheduler(options());
  auto ends = text(1, 3);
  ends.max_tokens = 1;
  scheduler.add(ends);
  scheduler.add(text(2, 3)); // its next position is in the block it has
  scheduler.add(text(3, 4)); // needs another
  const auto plan = scheduler.plan(TimePoint(milliseconds(1'000)));
  ASSERT_EQ(plan.chunks.size(), 3U);
  std::set<SequenceId> ahead;
  for (const auto* sequence : scheduler.plan_ahead(plan)) {
    ahead.insert(sequence->id);
  }
  EXPECT_EQ(ahead, (std::set<SequenceId>{2, 3}));
  EXPECT_EQ(scheduler.find(2)->table.blocks.size(), 1U);
  EXPECT_EQ(scheduler.find(3)->table.blocks.size(), 2U);
}

TEST(Scheduler, PlansNothingAheadWhereBlocksAreShort) {
  auto few = options();
  few.blocks.num_blocks = 3;
  Scheduler scheduler(few);
  for (SequenceId id = 1; id <= 2; ++id) {
    auto full = text(id, 4); // a block, and each token more needs another
    full.max_tokens = 4;
    scheduler.add(full);
  }
  const auto plan = scheduler.plan(TimePoint(milliseconds(1'000)));
  ASSERT_EQ(plan.chunks.size(), 2U);
  EXPECT_TRUE(scheduler.plan_ahead(plan).empty());
  EXPECT_EQ(scheduler.num_running(), 2);
  EXPECT_EQ(scheduler.num_preemptions(), 0U);
}

TEST(Scheduler, TheLastInOrderGivesItsBlocksBackWhenThePoolRunsDry) {
  auto few = options();
  few.blocks.num_blocks = 6;
  few.blocks.prefix_cache = false;
  few.max_context = 24;
  Scheduler scheduler(few);
  auto first = text(1, 8);
  first.max_tokens = 16;
  auto second = text(2, 8);
  second.max_tokens = 16;
  scheduler.add(first);
  scheduler.add(second);
  step(scheduler);
  for (int i = 0; i < 5; ++i) {
    step(scheduler);
  }
  EXPECT_EQ(scheduler.num_preemptions(), 1U);
  EXPECT_FALSE(scheduler.find(2)->is_running);
  EXPECT_EQ(scheduler.find(2)->num_computed, 0);
  scheduler.remove(1);
  const int size = scheduler.find(2)->size();
  EXPECT_EQ(step(scheduler).at(2), size); // all of it is computed again
}

TEST(Scheduler, ReportsWhatThePrefixCacheSaved) {
  Scheduler scheduler(options());
  scheduler.add(text(1, 10));
  step(scheduler);
  scheduler.remove(1);
  auto again = text(2, 10);
  again.prompt.assign(14, 1);
  scheduler.add(again);
  EXPECT_EQ(step(scheduler), (Lengths{{2, 6}}));
  EXPECT_EQ(scheduler.find(2)->num_cached, 8);
}

TEST(Scheduler, ChoicesOfOneRequestReadThePromptOnce) {
  Scheduler scheduler(options());
  auto first = text(1, 10);
  scheduler.add(first);
  auto second = first;
  second.id = 2;
  second.parent = 1;
  scheduler.add(second);
  EXPECT_EQ(step(scheduler), (Lengths{{1, 10}}));
  EXPECT_EQ(step(scheduler), (Lengths{{1, 1}, {2, 1}}));
}

TEST(Scheduler, SaysWhyATextCanNeverFit) {
  auto few = options();
  few.blocks.num_blocks = 10;
  const Scheduler scheduler(few);
  const auto message = [&](int prompt, int max_tokens) {
    try {
      scheduler.check_fits(prompt, max_tokens);
    } catch (const InvalidArgument& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  EXPECT_THAT(
      message(150, 51),
      "150 prompt tokens and 51 to generate exceed the context of 200 tokens");
  EXPECT_THAT(
      message(39, 2),
      "39 prompt tokens and 2 to generate exceed the key/value memory, which "
      "holds 40 tokens");
  EXPECT_THAT(message(0, 1), HasSubstr("prompt"));
  EXPECT_THAT(message(1, 0), HasSubstr("max_tokens"));
  EXPECT_EQ(message(39, 1), "");
}

} // namespace
} // namespace qwen3_mlx::engine
