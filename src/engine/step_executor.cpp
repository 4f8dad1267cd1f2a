// SPDX-License-Identifier: MIT
#include "engine/step_executor.h"

#include <algorithm>
#include <exception>
#include <unordered_set>

namespace qwen3_mlx::engine {

StepExecutor::StepExecutor(
    Scheduler& scheduler,
    Runner& runner,
    const ExecutorOptions& options)
    : scheduler_(scheduler), runner_(runner), options_(options) {}

void StepExecutor::launch(const StepPlan& plan) {
  runner_.drop(plan.preempted);
  runner_.copy(plan.copies);
  is_launched_ = false;
  try {
    runner_.launch(plan.chunks);
    is_launched_ = true;
  } catch (const std::exception&) {
    return; // collect() finds out
  }
  if (!options_.goes_ahead) {
    return;
  }
  try {
    runner_.launch_ahead(scheduler_.plan_ahead(plan));
  } catch (const std::exception&) {
    ++num_failed_; // the next step begins when it is planned, and tells why
  }
}

StepExecutor::Outcome StepExecutor::collect(const StepPlan& plan) {
  if (is_launched_) {
    try {
      Outcome outcome;
      outcome.results = runner_.collect();
      // What is no number must not be found by others.
      std::unordered_set<SequenceId> broken;
      for (const auto& result : outcome.results) {
        if (!result.is_finite) {
          broken.insert(result.id);
        }
      }
      StepPlan done;
      std::copy_if(
          plan.chunks.begin(),
          plan.chunks.end(),
          std::back_inserter(done.chunks),
          [&](const Chunk& chunk) {
            return !broken.contains(chunk.sequence->id);
          });
      scheduler_.commit(done);
      return outcome;
    } catch (const std::exception&) {
      // Who it was is found out below.
    }
  }
  ++num_failed_;
  runner_.abandon();
  return compute_one_by_one(plan);
}

StepExecutor::Outcome StepExecutor::compute_one_by_one(const StepPlan& plan) {
  Outcome outcome;
  StepPlan done;
  for (const auto& chunk : plan.chunks) {
    try {
      const auto one = compute_alone(chunk);
      outcome.results.insert(outcome.results.end(), one.begin(), one.end());
      if (one.empty() || one.front().is_finite) {
        done.chunks.push_back(chunk);
      }
    } catch (const std::exception& error) {
      runner_.abandon();
      outcome.failed.emplace_back(chunk.sequence->id, error.what());
    }
  }
  scheduler_.commit(done);
  outcome.failed_wholly = outcome.results.empty() && done.chunks.empty();
  return outcome;
}

std::vector<TokenResult> StepExecutor::compute_alone(const Chunk& chunk) {
  if (!runner_.can_resume(chunk)) {
    // The step that failed has written over what this one needs.
    for (int begin = 0; begin < chunk.begin;) {
      const int length =
          std::min(options_.max_step_tokens, chunk.begin - begin);
      const Chunk again{chunk.sequence, begin, length};
      runner_.run({&again, 1});
      begin += length;
    }
  }
  return runner_.run({&chunk, 1});
}

} // namespace qwen3_mlx::engine
