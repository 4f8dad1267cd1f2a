// SPDX-License-Identifier: MIT
#include "engine/scheduler.h"

#include <algorithm>
#include <cassert>
#include <string>
#include <tuple>

#include "qwen3_mlx/error.h"

namespace qwen3_mlx::engine {
namespace {

void require(bool condition, const std::string& message) {
  if (!condition) {
    throw InvalidArgument(message);
  }
}

// A decoded token keeps a whole row of the batch busy, a prompt's shares it.
constexpr double decode_weight = 2;

// So many prompts in line are worth a longer pause of one decoding text.
constexpr std::size_t prompts_worth_a_pause = 8;

bool is_decoding(const Sequence& sequence) {
  return sequence.num_to_compute() == 1 && sequence.num_generated() > 0;
}

} // namespace

// Less is sooner.
struct Scheduler::Rank {
  std::int64_t urgency;
  double service;
  TimePoint arrival;
  SequenceId id;

  friend bool operator<(const Rank& a, const Rank& b) {
    return std::tie(a.urgency, a.service, a.arrival, a.id) <
        std::tie(b.urgency, b.service, b.arrival, b.id);
  }
};

Scheduler::Scheduler(const SchedulerOptions& options)
    : options_(options), blocks_(options.blocks) {
  require(
      options.max_running >= 1 && options.max_step_tokens >= 1 &&
          options.max_idle_step_tokens >= options.max_step_tokens &&
          options.max_context >= 1 && options.aging.count() >= 1,
      "scheduler: every limit must be at least 1");
}

void Scheduler::check_fits(std::int64_t num_prompt, std::int64_t max_tokens)
    const {
  require(num_prompt >= 1, "prompt: expected at least one token");
  require(
      max_tokens >= 1,
      "max_tokens: expected at least 1, found " + std::to_string(max_tokens));
  const auto total = num_prompt + max_tokens;
  const auto asked = std::to_string(num_prompt) + " prompt tokens and " +
      std::to_string(max_tokens) + " to generate";
  require(
      total <= options_.max_context,
      asked + " exceed the context of " + std::to_string(options_.max_context) +
          " tokens");
  const auto capacity =
      std::int64_t{blocks_.num_blocks()} * blocks_.block_size();
  require(
      total <= capacity,
      asked + " exceed the key/value memory, which holds " +
          std::to_string(capacity) + " tokens");
}

void Scheduler::add(NewSequence added) {
  check_fits(static_cast<std::int64_t>(added.prompt.size()), added.max_tokens);
  require(
      !sequences_.contains(added.id),
      "sequence: id " + std::to_string(added.id) + " is in use");
  auto sequence = std::make_unique<Sequence>();
  sequence->id = added.id;
  sequence->num_prompt = static_cast<int>(added.prompt.size());
  sequence->tokens = std::move(added.prompt);
  sequence->max_tokens = added.max_tokens;
  sequence->priority = added.priority;
  sequence->user = std::move(added.user);
  sequence->arrival = added.arrival;
  sequence->parent = added.parent;
  fair_share_.enter(sequence->user);
  waiting_.push_back(sequence.get());
  sequences_.emplace(sequence->id, std::move(sequence));
}

const Sequence* Scheduler::find(SequenceId id) const {
  const auto found = sequences_.find(id);
  return found == sequences_.end() ? nullptr : found->second.get();
}

Scheduler::Rank Scheduler::rank(const Sequence& sequence, TimePoint now) const {
  const auto waited =
      std::max(now - sequence.arrival, TimePoint::duration::zero());
  return {
      sequence.priority - waited / options_.aging,
      fair_share_.service(sequence.user),
      sequence.arrival,
      sequence.id};
}

StepPlan Scheduler::plan(TimePoint now) {
  StepPlan plan;
  plan_decode(plan, now);
  const auto num_planned = running_.size();
  admit(plan, now);
  plan_prefill(plan, num_planned, now);
  return plan;
}

void Scheduler::plan_decode(StepPlan& plan, TimePoint now) {
  // Room is made in order, so that those who lose their blocks come last; a
  // copy of the list, because making room takes sequences out of it.
  std::vector<std::pair<Rank, Sequence*>> order;
  for (auto* sequence : running_) {
    order.emplace_back(rank(*sequence, now), sequence);
  }
  std::sort(order.begin(), order.end(), [](const auto& a, const auto& b) {
    return a.first < b.first;
  });
  for (const auto& [place, sequence] : order) {
    if (sequence->is_running && is_decoding(*sequence)) {
      make_room(*sequence, plan, now);
    }
  }
  for (auto* sequence : running_) {
    if (is_decoding(*sequence)) {
      plan.chunks.push_back({sequence, sequence->num_computed, 1});
      fair_share_.charge(sequence->user, decode_weight);
    }
  }
}

// Makes the block of the next token the sequence's own, at the cost of the
// last in order; false when that is the sequence itself.
bool Scheduler::make_room(Sequence& sequence, StepPlan& plan, TimePoint now) {
  const auto idx =
      static_cast<std::size_t>(sequence.num_computed / blocks_.block_size());
  while (true) {
    if (idx == sequence.table.blocks.size()) {
      if (blocks_.grow(sequence.table)) {
        return true;
      }
    } else {
      const auto owned = blocks_.make_own(sequence.table, idx);
      if (owned.copy) {
        plan.copies.push_back(*owned.copy);
      }
      if (!owned.failed) {
        return true;
      }
    }
    auto* victim = last_in_order(now);
    // Copies into a block that is given back must not happen any more: it may
    // be another's by then.
    std::erase_if(plan.copies, [&](const BlockCopy& copy) {
      const auto& blocks = victim->table.blocks;
      return std::find(blocks.begin(), blocks.end(), copy.to) != blocks.end();
    });
    plan.preempted.push_back(victim->id);
    give_up_blocks(*victim);
    if (victim == &sequence) {
      return false;
    }
  }
}

Sequence* Scheduler::last_in_order(TimePoint now) const {
  return *std::max_element(
      running_.begin(), running_.end(), [&](auto* a, auto* b) {
        return rank(*a, now) < rank(*b, now);
      });
}

void Scheduler::give_up_blocks(Sequence& sequence) {
  blocks_.release(sequence.table);
  sequence.num_computed = 0;
  sequence.is_running = false;
  ++sequence.num_preemptions;
  ++num_preemptions_;
  std::erase(running_, &sequence);
  waiting_.push_back(&sequence);
}

void Scheduler::admit(StepPlan& plan, TimePoint now) {
  std::sort(waiting_.begin(), waiting_.end(), [&](auto* a, auto* b) {
    return rank(*a, now) < rank(*b, now);
  });
  std::size_t place = 0;
  while (place < waiting_.size() && num_running() < options_.max_running) {
    auto& sequence = *waiting_[place];
    const auto* parent = sequence.parent ? find(*sequence.parent) : nullptr;
    if (parent != nullptr && parent->num_computed < sequence.num_prompt &&
        sequence.num_generated() == 0) {
      ++place; // its turn comes with the end of its parent's prompt
      continue;
    }
    if (!try_admit(sequence, plan)) {
      return; // nobody overtakes the first in line
    }
    waiting_.erase(waiting_.begin() + static_cast<std::ptrdiff_t>(place));
    running_.push_back(&sequence);
  }
}

bool Scheduler::try_admit(Sequence& sequence, StepPlan& plan) {
  // One more than the tokens need: for a copy of the last block.
  const int needed = blocks_.blocks_for(sequence.size());
  const int reserve = num_running();
  const auto* parent = sequence.parent ? find(*sequence.parent) : nullptr;
  if (parent != nullptr && sequence.num_generated() == 0 &&
      parent->is_running) {
    if (blocks_.num_available() < 1 + reserve) {
      return false;
    }
    blocks_.share(sequence.table, parent->table, sequence.size());
    sequence.num_computed = sequence.size();
  } else {
    const auto prefix = blocks_.find_prefix(sequence.tokens);
    const int num_shared = prefix.num_tokens / blocks_.block_size();
    const int to_copy = prefix.num_tokens == sequence.size() ? 1 : 0;
    const int available = blocks_.num_available() - prefix.num_unheld_blocks;
    // Alone a sequence is always let in: it was checked to fit.
    if (available < needed - num_shared + to_copy + reserve &&
        num_running() > 0) {
      return false;
    }
    sequence.num_computed =
        blocks_.take_prefix(sequence.table, sequence.tokens);
    while (static_cast<int>(sequence.table.blocks.size()) < needed) {
      blocks_.grow(sequence.table);
    }
  }
  // Of the last token the logits are wanted, so it is computed in any case.
  if (sequence.num_computed == sequence.size()) {
    --sequence.num_computed;
    const auto owned =
        blocks_.make_own(sequence.table, sequence.table.blocks.size() - 1);
    assert(!owned.failed && "room for the copy was made sure of");
    if (owned.copy) {
      plan.copies.push_back(*owned.copy);
    }
  }
  if (!sequence.was_admitted) {
    sequence.num_cached = sequence.num_computed;
    sequence.was_admitted = true;
  }
  sequence.is_running = true;
  return true;
}

// Those behind the first `num_old` running ones were let in for this step.
void Scheduler::plan_prefill(
    StepPlan& plan,
    std::size_t num_old,
    TimePoint now) {
  std::vector<Sequence*> prompts;
  for (std::size_t idx = 0; idx < running_.size(); ++idx) {
    if (idx >= num_old || !is_decoding(*running_[idx])) {
      prompts.push_back(running_[idx]);
    }
  }
  // Only decoding ones are planned so far. A few of them are held up longer
  // where that lets many prompts come to their first token together.
  const bool few_decode =
      plan.chunks.size() * prompts_worth_a_pause <= prompts.size();
  int budget =
      few_decode ? options_.max_idle_step_tokens : options_.max_step_tokens;
  const auto take = [&](const Sequence& sequence, int most) {
    const int length = std::min(most, sequence.num_to_compute());
    plan.chunks.push_back({&sequence, sequence.num_computed, length});
    plan.num_prompt_tokens += length;
    budget -= length;
    fair_share_.charge(sequence.user, length);
  };
  if (prompts.empty()) {
    return;
  }
  // running_ is in the order of admission: the first one is the oldest. It
  // gets what the others leave, half of the budget at least.
  auto* oldest = prompts.front();
  prompts.erase(prompts.begin());
  const int for_oldest = std::min((budget + 1) / 2, oldest->num_to_compute());
  int for_others = budget - for_oldest;
  while (!prompts.empty() && for_others > 0) {
    const auto next =
        std::min_element(prompts.begin(), prompts.end(), [&](auto* a, auto* b) {
          const auto left = rank(*a, now);
          const auto right = rank(*b, now);
          return std::tuple(
                     left.urgency, left.service, a->num_to_compute(), a->id) <
              std::tuple(
                     right.urgency, right.service, b->num_to_compute(), b->id);
        });
    const int before = budget;
    take(**next, for_others);
    for_others -= before - budget;
    prompts.erase(next);
  }
  take(*oldest, budget);
}

std::vector<const Sequence*> Scheduler::plan_ahead(const StepPlan& plan) {
  std::vector<const Sequence*> ahead;
  for (const auto& chunk : plan.chunks) {
    auto& sequence = *sequences_.at(chunk.sequence->id);
    if (!chunk.wants_token() ||
        sequence.num_generated() + 1 >= sequence.max_tokens) {
      continue;
    }
    auto& table = sequence.table;
    const auto idx =
        static_cast<std::size_t>(sequence.size() / blocks_.block_size());
    const bool has_room = idx < table.blocks.size()
        ? blocks_.num_references(table.blocks[idx]) == 1
        : blocks_.grow(table);
    // Some without the others would make two steps of the next one.
    if (!has_room) {
      return {};
    }
    ahead.push_back(&sequence);
  }
  return ahead;
}

void Scheduler::commit(const StepPlan& plan) {
  for (const auto& chunk : plan.chunks) {
    auto& sequence = *sequences_.at(chunk.sequence->id);
    sequence.num_computed = chunk.begin + chunk.length;
    blocks_.publish(sequence.table, sequence.tokens, sequence.num_computed);
  }
}

void Scheduler::append(SequenceId id, std::uint32_t token) {
  sequences_.at(id)->tokens.push_back(token);
}

void Scheduler::remove(SequenceId id) {
  const auto found = sequences_.find(id);
  if (found == sequences_.end()) {
    return;
  }
  auto* sequence = found->second.get();
  blocks_.release(sequence->table);
  std::erase(running_, sequence);
  std::erase(waiting_, sequence);
  fair_share_.leave(sequence->user);
  sequences_.erase(found);
}

void Scheduler::abandon(const StepPlan& plan) {
  const auto takes_part = [&plan](const Sequence& sequence) {
    const auto& blocks = sequence.table.blocks;
    return std::any_of(
               plan.chunks.begin(),
               plan.chunks.end(),
               [&](const Chunk& chunk) {
                 return chunk.sequence == &sequence;
               }) ||
        std::any_of(
               plan.copies.begin(),
               plan.copies.end(),
               [&](const BlockCopy& copy) {
                 return std::find(blocks.begin(), blocks.end(), copy.to) !=
                     blocks.end();
               });
  };
  const auto running = running_; // giving up takes out of the list
  for (auto* sequence : running) {
    if (takes_part(*sequence)) {
      give_up_blocks(*sequence);
    }
  }
}

} // namespace qwen3_mlx::engine
