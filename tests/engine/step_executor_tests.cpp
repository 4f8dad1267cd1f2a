// SPDX-License-Identifier: MIT
// Scheduler, runner and executor together, without the engine's thread: random
// events, too little memory and steps that fail, one step ahead and not. Every
// text is the one that its sequence gets alone.
#include "engine/step_executor.h"

#include <functional>
#include <map>
#include <random>
#include <set>

#include <gtest/gtest.h>

#include "engine/engine_testing.h"

namespace qwen3_mlx::engine {
namespace {

using testing::TinyChat;
using Tokens = std::vector<std::uint32_t>;

constexpr int block_size = 8;

/// Asks before it gives caches out, and sees that they stay in their blocks.
class WatchedStorage final : public KvStorage {
 public:
  using Watch = std::function<void(const Chunk&)>;

  WatchedStorage(std::unique_ptr<KvStorage> storage, Watch watch)
      : storage_(std::move(storage)), watch_(std::move(watch)) {}

  bool shares_blocks() const override {
    return storage_->shares_blocks();
  }
  void copy(std::span<const BlockCopy> copies) override {
    storage_->copy(copies);
  }
  std::span<KVCache> caches_for(const Chunk& chunk) override {
    const auto num_blocks = chunk.sequence->table.blocks.size();
    EXPECT_LE(
        chunk.begin + chunk.length, static_cast<int>(num_blocks) * block_size)
        << "more positions than memory was counted for";
    watch_(chunk);
    return storage_->caches_for(chunk);
  }
  bool can_resume(const Chunk& chunk) const override {
    return storage_->can_resume(chunk);
  }
  bool can_step_back() const override {
    return storage_->can_step_back();
  }
  bool logits_cover_writes() const override {
    return storage_->logits_cover_writes();
  }
  void drop(SequenceId id) override {
    storage_->drop(id);
  }
  std::size_t block_bytes() const override {
    return storage_->block_bytes();
  }
  void read_block(BlockId block, std::byte* to) const override {
    storage_->read_block(block, to);
  }
  void write_block(BlockId block, const std::byte* from) override {
    storage_->write_block(block, from);
  }

 private:
  std::unique_ptr<KvStorage> storage_;
  Watch watch_;
};

struct Text {
  SequenceId id = 0;
  Tokens prompt;
  int max_tokens = 0;
  SamplingParams params;
};

struct Setting {
  CacheOptions caches;
  int num_blocks = 1'000;
  bool goes_ahead = true;
};

/// The engine's loop by hand.
class Steps {
 public:
  Steps(
      const TinyChat& tiny,
      const Setting& setting,
      WatchedStorage::Watch watch = [](const Chunk&) {})
      : scheduler_(
            {.blocks =
                 {.num_blocks = setting.num_blocks,
                  .block_size = block_size,
                  .prefix_cache = false},
             .max_running = 10, // more than 8 are filled up to 16
             .max_step_tokens = 24,
             .max_idle_step_tokens = 48,
             .max_context = 400}),
        runner_(
            *tiny.model,
            std::make_unique<WatchedStorage>(
                find_kv_layout(*tiny.model, setting.caches).make(0),
                std::move(watch)),
            /* decodes_apart */ true),
        executor_(
            scheduler_,
            runner_,
            {.goes_ahead = setting.goes_ahead, .max_step_tokens = 24}) {}

  void add(const Text& text) {
    runner_.open(text.id, {.params = text.params});
    scheduler_.add(
        {.id = text.id,
         .prompt = text.prompt,
         .max_tokens = text.max_tokens,
         .arrival = TimePoint(std::chrono::milliseconds(text.id))});
    texts[text.id] = {};
    max_tokens_[text.id] = text.max_tokens;
  }
  void cancel(SequenceId id) {
    end(id);
    texts.erase(id);
  }
  bool idle() const {
    return scheduler_.idle();
  }
  std::vector<SequenceId> running() const {
    std::vector<SequenceId> ids;
    for (const auto& [id, left] : max_tokens_) {
      ids.push_back(id);
    }
    return ids;
  }
  const Runner& runner() const {
    return runner_;
  }
  const StepExecutor& executor() const {
    return executor_;
  }
  const Scheduler& scheduler() const {
    return scheduler_;
  }

  void step() {
    const auto plan =
        scheduler_.plan(TimePoint(std::chrono::milliseconds(1'000)));
    executor_.launch(plan);
    const auto outcome = executor_.collect(plan);
    for (const auto& [id, why] : outcome.failed) {
      failed.insert(id);
      end(id);
    }
    for (const auto& result : outcome.results) {
      EXPECT_TRUE(result.is_finite);
      auto& text = texts.at(result.id);
      // A budget may say another token than the model.
      const bool is_replaced = (result.id + text.size()) % 11 == 0;
      const auto token = is_replaced ? 33 + result.token % 7 : result.token;
      text.push_back(token);
      // Every 40th token or so ends a text.
      if (static_cast<int>(text.size()) == max_tokens_.at(result.id) ||
          token % 40 == 3) {
        end(result.id);
      } else {
        scheduler_.append(result.id, token);
      }
    }
  }

  std::map<SequenceId, Tokens> texts;
  std::set<SequenceId> failed;

 private:
  void end(SequenceId id) {
    scheduler_.remove(id);
    runner_.close(id);
    max_tokens_.erase(id);
  }

  Scheduler scheduler_;
  Runner runner_;
  StepExecutor executor_;
  std::map<SequenceId, int> max_tokens_;
};

Tokens
alone(const TinyChat& tiny, const CacheOptions& caches, const Text& text) {
  Steps steps(tiny, {.caches = caches, .goes_ahead = false});
  steps.add(text);
  while (!steps.idle()) {
    steps.step();
  }
  return steps.texts.at(text.id);
}

class Random {
 public:
  explicit Random(unsigned seed) : random_(seed) {}

  int upto(int low, int high) {
    return std::uniform_int_distribution<int>(low, high)(random_);
  }
  Text text(SequenceId id) {
    Text text;
    text.id = id;
    for (int n = upto(1, 50); n > 0; --n) {
      text.prompt.push_back(static_cast<std::uint32_t>(upto(40, 120)));
    }
    text.max_tokens = upto(1, 40);
    text.params.seed = id;
    text.params.temperature = id % 3 == 0 ? 0.0F : 1.0F;
    text.params.top_k = id % 4 == 1 ? 20 : 0;
    if (id % 5 == 2) {
      text.params.frequency_penalty = 0.6F;
      text.params.penalty_window = upto(1, 30);
    }
    return text;
  }

 private:
  std::mt19937 random_;
};

struct Form {
  std::string name;
  Kernels kernels;
  CacheOptions caches;
};

class StepExecutorTest : public ::testing::TestWithParam<Form> {
 protected:
  StepExecutorTest() : tiny_(GetParam().kernels) {}
  TinyChat tiny_;
};

TEST_P(StepExecutorTest, RandomEventsChangeNoText) {
  std::uint64_t num_ahead = 0;
  std::uint64_t num_preemptions = 0;
  std::uint64_t num_failed = 0;
  for (unsigned seed = 0; seed < 12; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    Random random(seed);
    const bool has_faults = seed % 3 == 2;
    Setting setting{.caches = GetParam().caches};
    setting.num_blocks = seed % 2 == 0 ? 1'000 : random.upto(14, 40);
    Steps steps(tiny_, setting, [&](const Chunk&) {
      if (has_faults && random.upto(0, 400) == 0) {
        throw Error("a fault");
      }
    });
    std::vector<Text> texts;
    for (int event = 0; event < 60; ++event) {
      const int kind = random.upto(0, 9);
      if (kind < 4) {
        texts.push_back(random.text(texts.size() + 1));
        steps.add(texts.back());
      } else if (kind == 4 && !steps.running().empty()) {
        const auto ids = steps.running();
        steps.cancel(ids[static_cast<std::size_t>(
            random.upto(0, static_cast<int>(ids.size()) - 1))]);
      } else if (!steps.idle()) {
        steps.step();
      }
    }
    while (!steps.idle()) {
      steps.step();
    }
    for (const auto& text : texts) {
      if (steps.texts.contains(text.id) && !steps.failed.contains(text.id)) {
        EXPECT_EQ(
            steps.texts.at(text.id), alone(tiny_, GetParam().caches, text))
            << "text " << text.id;
      }
    }
    EXPECT_TRUE(has_faults || steps.failed.empty());
    const auto& blocks = steps.scheduler().blocks();
    EXPECT_EQ(blocks.num_available(), blocks.num_blocks());
    num_ahead += steps.runner().num_tokens_ahead();
    num_preemptions += steps.scheduler().num_preemptions();
    num_failed += steps.executor().num_failed();
  }
  EXPECT_GT(num_ahead, 500U);
  EXPECT_GT(num_preemptions, 0U);
  EXPECT_GT(num_failed, 0U);
}

TEST_P(StepExecutorTest, WhatCannotBeginAheadIsComputedInTime) {
  Random random(1);
  const Setting setting{.caches = GetParam().caches};
  Steps steps(tiny_, setting, [](const Chunk& chunk) {
    if (chunk.begin == chunk.sequence->size()) {
      throw Error("its token is not known yet");
    }
  });
  std::vector<Text> texts;
  for (SequenceId id = 1; id <= 6; ++id) {
    texts.push_back(random.text(id));
    steps.add(texts.back());
  }
  while (!steps.idle()) {
    steps.step();
  }
  EXPECT_TRUE(steps.failed.empty());
  EXPECT_GT(steps.executor().num_failed(), 0U);
  EXPECT_EQ(steps.runner().num_tokens_ahead(), 0U);
  for (const auto& text : texts) {
    EXPECT_EQ(steps.texts.at(text.id), alone(tiny_, GetParam().caches, text));
  }
}

// Nobody but the one whose fault it is fails; with rotating caches, which
// cannot go back, the others are computed again from their tokens.
TEST_P(StepExecutorTest, AFailureIsOnesOwn) {
  auto caches = GetParam().caches;
  for (const bool rotates : {false, true}) {
    SCOPED_TRACE(rotates ? "rotating" : "as they are");
    if (rotates) {
      caches = {.max_kv_size = 24, .keep = 4};
    }
    Random random(2);
    std::vector<Text> texts;
    for (SequenceId id = 1; id <= 5; ++id) {
      texts.push_back(random.text(id));
      texts.back().max_tokens = 30;
    }
    const SequenceId guilty = 5;
    Steps steps(
        tiny_,
        {.caches = caches, .goes_ahead = !rotates},
        [&](const Chunk& chunk) {
          if (chunk.sequence->id == guilty) {
            throw Error("a fault of its own");
          }
        });
    for (const auto& text : texts) {
      if (text.id != guilty) {
        steps.add(text);
      }
    }
    for (int i = 0; i < 12; ++i) {
      steps.step();
    }
    steps.add(texts.back());
    while (!steps.idle()) {
      steps.step();
    }
    EXPECT_EQ(steps.failed, std::set<SequenceId>{guilty});
    for (const auto& text : texts) {
      if (text.id != guilty) {
        EXPECT_EQ(steps.texts.at(text.id), alone(tiny_, caches, text))
            << "text " << text.id;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Caches,
    StepExecutorTest,
    ::testing::Values(
        Form{"growing", Kernels::stock, {}},
        Form{
            "quantized",
            Kernels::native,
            {.kv_bits = 8, .kv_group_size = 32, .quantized_kv_start = 24}}),
    [](const auto& form) { return form.param.name; });

} // namespace
} // namespace qwen3_mlx::engine
