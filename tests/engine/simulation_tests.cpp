// SPDX-License-Identifier: MIT
// The scheduler under random events, with a fake model and a fake clock: users
// come, cancel, run out of memory; steps fail. After each step its invariants
// hold, and every text that is not cancelled says what it says alone.
#include <algorithm>
#include <cstdlib>
#include <iostream>
#include <map>
#include <random>
#include <set>
#include <string>

#include <gtest/gtest.h>

#include "engine/fake_model.h"
#include "qwen3_mlx/error.h"

namespace qwen3_mlx::engine::testing {
namespace {

using std::chrono::milliseconds;

int num_simulations() {
  const char* asked = std::getenv("QWEN3_MLX_SIMULATIONS");
  return asked != nullptr ? std::atoi(asked) : 3'000;
}

// What has happened in all simulations.
struct Counts {
  long events = 0;
  long steps = 0;
  long failed_steps = 0;
  long arrived = 0;
  long refused = 0;
  long cancelled = 0;
  long finished = 0;
  long preemptions = 0;
  long tokens = 0;
};

std::ostream& operator<<(std::ostream& out, const Counts& counts) {
  return out << counts.events << " events: " << counts.arrived
             << " sequences arrived, " << counts.refused << " were refused, "
             << counts.cancelled << " cancelled, " << counts.finished
             << " finished, " << counts.preemptions << " preemptions; "
             << counts.tokens << " tokens in " << counts.steps << " steps, "
             << counts.failed_steps << " of which failed";
}

class Simulation {
 public:
  Simulation(unsigned seed, Counts& counts)
      : counts_(counts), random_(seed), options_(draw_options()),
        scheduler_(options_),
        model_(options_.blocks.num_blocks, options_.blocks.block_size) {
    for (int i = 0; i < 3; ++i) {
      Tokens base;
      for (int n = upto(0, 3 * options_.blocks.block_size); n > 0; --n) {
        base.push_back(static_cast<std::uint32_t>(upto(1, 9)));
      }
      bases_.push_back(base);
    }
  }

  void run() {
    const int num_events = upto(10, 60);
    counts_.events += num_events;
    for (int i = 0; i < num_events && !::testing::Test::HasFailure(); ++i) {
      random_event();
    }
    // Nobody starves: all that is left comes to an end on its own.
    int steps_left = 20'000;
    while (!scheduler_.idle() && !::testing::Test::HasFailure()) {
      ASSERT_GT(--steps_left, 0) << "sequences are left that do not advance";
      step();
    }
    ASSERT_TRUE(expected_.empty());
    EXPECT_EQ(scheduler_.blocks().num_available(), options_.blocks.num_blocks)
        << "blocks leaked";
  }

 private:
  int upto(int low, int high) {
    return std::uniform_int_distribution<int>(low, high)(random_);
  }

  SchedulerOptions draw_options() {
    SchedulerOptions options;
    options.blocks.block_size = upto(1, 5);
    options.blocks.num_blocks = upto(2, 24);
    options.blocks.prefix_cache = upto(0, 3) > 0;
    options.blocks.max_cached_blocks = upto(0, options.blocks.num_blocks);
    options.max_running = upto(1, 6);
    options.max_step_tokens = upto(1, 12);
    options.max_idle_step_tokens = options.max_step_tokens + upto(0, 12);
    options.max_context = upto(8, 60);
    return options;
  }

  void random_event() {
    now_ += milliseconds(upto(0, 3'000));
    const int kind = upto(0, 9);
    if (kind < 4) {
      arrive();
    } else if (kind == 4 && !expected_.empty()) {
      auto victim = expected_.begin();
      std::advance(victim, upto(0, static_cast<int>(expected_.size()) - 1));
      count_end(victim->first);
      ++counts_.cancelled;
      scheduler_.remove(victim->first);
      expected_.erase(victim);
    } else if (kind == 5) {
      fail_step();
    } else {
      step();
    }
  }

  void arrive() {
    NewSequence sequence;
    sequence.prompt = bases_[static_cast<std::size_t>(upto(0, 2))];
    sequence.prompt.resize(static_cast<std::size_t>(
        upto(0, static_cast<int>(sequence.prompt.size()))));
    for (int n = upto(0, 6); n > 0; --n) {
      sequence.prompt.push_back(static_cast<std::uint32_t>(upto(1, 9)));
    }
    sequence.max_tokens = upto(1, 20);
    sequence.priority = upto(-1, 1);
    sequence.user = std::string(1, static_cast<char>('a' + upto(0, 2)));
    sequence.arrival = now_;
    std::optional<SequenceId> parent;
    for (int n = upto(1, 3); n > 0; --n) { // as "n" of a request
      sequence.id = ++last_id_;
      sequence.parent = parent;
      try {
        scheduler_.add(sequence);
      } catch (const InvalidArgument&) {
        ++counts_.refused;
        return; // can never fit
      }
      ++counts_.arrived;
      parent = parent.value_or(sequence.id);
      expected_[sequence.id] =
          FakeModel::solo(sequence.prompt, sequence.max_tokens);
    }
  }

  void step() {
    const auto plan = scheduler_.plan(now_);
    check(plan);
    const auto tokens = model_.run(plan, scheduler_.blocks());
    plan_ahead(plan);
    scheduler_.commit(plan);
    ++counts_.steps;
    for (const auto& [id, token] : tokens) {
      ++counts_.tokens;
      const auto* sequence = scheduler_.find(id);
      const auto& expected = expected_.at(id);
      const auto place = static_cast<std::size_t>(sequence->num_generated());
      ASSERT_LT(place, expected.size());
      ASSERT_EQ(token, expected[place]) << "sequence " << id;
      if (place + 1 == expected.size()) {
        count_end(id);
        ++counts_.finished;
        scheduler_.remove(id);
        expected_.erase(id);
      } else {
        scheduler_.append(id, token);
      }
    }
    check_blocks();
    now_ += milliseconds(10);
  }

  // Takes what blocks the next step is sure to need, and nobody's.
  void plan_ahead(const StepPlan& plan) {
    if (!goes_ahead_) {
      return;
    }
    const auto num_preemptions = scheduler_.num_preemptions();
    for (const auto* sequence : scheduler_.plan_ahead(plan)) {
      EXPECT_LT(sequence->num_generated() + 1, sequence->max_tokens);
      const auto num_blocks = static_cast<int>(sequence->table.blocks.size());
      EXPECT_LE(sequence->size() + 1, num_blocks * options_.blocks.block_size);
      EXPECT_EQ(
          scheduler_.blocks().num_references(
              sequence->table.blocks.at(static_cast<std::size_t>(
                  sequence->size() / options_.blocks.block_size))),
          1);
    }
    EXPECT_EQ(scheduler_.num_preemptions(), num_preemptions);
  }

  void count_end(SequenceId id) {
    counts_.preemptions += scheduler_.find(id)->num_preemptions;
  }

  // The step throws: what it wrote is worth nothing, its sequences start over.
  void fail_step() {
    const auto plan = scheduler_.plan(now_);
    check(plan);
    scheduler_.abandon(plan);
    ++counts_.steps;
    ++counts_.failed_steps;
    check_blocks();
  }

  void check(const StepPlan& plan) {
    EXPECT_TRUE(scheduler_.idle() || !plan.empty()) << "work, but no step";
    EXPECT_LE(plan.num_prompt_tokens, options_.max_idle_step_tokens);
    EXPECT_LE(scheduler_.num_running(), options_.max_running);
    std::set<SequenceId> seen;
    for (const auto& chunk : plan.chunks) {
      EXPECT_TRUE(seen.insert(chunk.sequence->id).second);
      EXPECT_EQ(chunk.begin, chunk.sequence->num_computed);
      EXPECT_GE(chunk.length, 1);
      EXPECT_LE(chunk.begin + chunk.length, chunk.sequence->size());
    }
    // Whoever decodes gets a token in every step.
    for (const auto& [id, text] : expected_) {
      const auto* sequence = scheduler_.find(id);
      if (sequence->is_running && sequence->num_to_compute() == 1 &&
          sequence->num_generated() > 0 && sequence->num_preemptions == 0) {
        EXPECT_TRUE(seen.contains(id)) << "sequence " << id << " is stalled";
      }
    }
  }

  // Each block is held as often as tables name it; none is lost.
  void check_blocks() {
    const auto& blocks = scheduler_.blocks();
    std::map<BlockId, int> holders;
    for (const auto& [id, text] : expected_) {
      const auto* sequence = scheduler_.find(id);
      ASSERT_NE(sequence, nullptr);
      EXPECT_EQ(sequence->is_running, !sequence->table.blocks.empty());
      std::set<BlockId> own;
      for (const auto block : sequence->table.blocks) {
        EXPECT_TRUE(own.insert(block).second);
        ++holders[block];
      }
    }
    for (BlockId block = 0; block < blocks.num_blocks(); ++block) {
      EXPECT_EQ(blocks.num_references(block), holders[block]);
    }
    EXPECT_EQ(
        blocks.num_available(),
        blocks.num_blocks() -
            static_cast<int>(std::count_if(
                holders.begin(), holders.end(), [](const auto& holder) {
                  return holder.second > 0;
                })));
    EXPECT_LE(blocks.num_cached(), options_.blocks.max_cached_blocks);
  }

  Counts& counts_;
  std::mt19937 random_;
  SchedulerOptions options_;
  Scheduler scheduler_;
  FakeModel model_;
  std::vector<Tokens> bases_;
  std::map<SequenceId, Tokens> expected_; // what is still to be said by whom
  SequenceId last_id_ = 0;
  TimePoint now_{};
  bool goes_ahead_ = upto(0, 1) == 1;
};

TEST(Simulation, RandomEventsKeepTheInvariants) {
  const int count = num_simulations();
  Counts counts;
  for (int seed = 0; seed < count; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    Simulation(static_cast<unsigned>(seed), counts).run();
    ASSERT_FALSE(HasFailure());
  }
  std::cout << count << " simulations, " << counts << '\n';
  // Were one of these rare, little would be shown.
  EXPECT_GT(counts.preemptions, count / 10);
  EXPECT_GT(counts.cancelled, count / 10);
  EXPECT_GT(counts.failed_steps, count / 10);
}

} // namespace
} // namespace qwen3_mlx::engine::testing
