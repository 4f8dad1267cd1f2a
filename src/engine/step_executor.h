// SPDX-License-Identifier: MIT
// Has a runner compute what a scheduler planned, one step ahead where that
// pays, and finds out whose fault it is when a step fails.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "engine/runner.h"
#include "engine/scheduler.h"

namespace qwen3_mlx::engine {

struct ExecutorOptions {
  bool goes_ahead = false; ///< Only where the storage can step back.
  /// Tokens of a sequence that has to be computed again, in one go.
  int max_step_tokens = 1;
};

/// Belongs to the engine's thread.
class StepExecutor {
 public:
  StepExecutor(
      Scheduler& scheduler,
      Runner& runner,
      const ExecutorOptions& options);

  /// Begins the step, and the one behind it as far as it can be told. Returns
  /// at once where the device works by itself; the scheduler stays as it is
  /// until collect().
  void launch(const StepPlan& plan);

  struct Outcome {
    std::vector<TokenResult> results; ///< In the order of the chunks.
    std::vector<std::pair<SequenceId, std::string>> failed; ///< And why.
    bool failed_wholly = false; ///< Nothing at all could be computed.
  };
  /// Waits for the step and commits what was computed. A step that fails is
  /// tried again chunk by chunk, so that only those fail that do it alone.
  Outcome collect(const StepPlan& plan);

  /// Steps, also those begun ahead, that failed so far.
  std::uint64_t num_failed() const {
    return num_failed_;
  }

 private:
  Outcome compute_one_by_one(const StepPlan& plan);
  std::vector<TokenResult> compute_alone(const Chunk& chunk);

  Scheduler& scheduler_;
  Runner& runner_;
  ExecutorOptions options_;
  bool is_launched_ = false;
  std::uint64_t num_failed_ = 0;
};

} // namespace qwen3_mlx::engine
