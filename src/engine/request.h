// SPDX-License-Identifier: MIT
// What goes into the engine and what comes out. Plain data, safe to hand from
// thread to thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "engine/sequence.h"
#include "engine/token_batch.h"
#include "qwen3_mlx/error.h"

namespace qwen3_mlx::engine {

using RequestId = std::uint64_t;

/// Ends the model's thinking after a number of tokens.
struct ThinkingBudget {
  int max_tokens = 0;
  std::uint32_t open_id = 0;  ///< The token <think>...
  std::uint32_t close_id = 0; ///< ...and </think>.
  bool starts_open = false;   ///< The prompt ends inside of it.
  /// Said in the model's place when the budget is used up.
  std::vector<std::uint32_t> closing = {};
};

struct Request {
  RequestId id = 0;
  std::vector<std::uint32_t> prompt = {};
  int num_choices = 1;
  SequenceSampling sampling = {}; ///< Choice i adds i to the seed.
  int max_tokens = 0;
  /// Ids that end a text without being part of it.
  std::vector<std::uint32_t> stop_ids = {};
  /// Texts that end a text without being part of it.
  std::vector<std::string> stop = {};
  std::string user = {};
  int priority = 0;
  std::optional<TimePoint> deadline = std::nullopt;
  std::optional<ThinkingBudget> thinking = std::nullopt;
};

enum class Finish {
  stop,     ///< The model's end, or a stop string.
  length,   ///< max_tokens.
  deadline, ///< The request's time was over.
  error,    ///< Event::error says what happened.
  shutdown  ///< The engine stopped before the text was done.
};

struct OutputToken {
  std::uint32_t id = 0;
  std::optional<TokenLogprobs> logprobs = std::nullopt;
};

/// Counts and times of one choice.
struct Usage {
  int num_prompt = 0;
  int num_cached = 0; ///< Prompt tokens that the prefix cache held.
  int num_generated = 0;
  double queue_seconds = 0;  ///< Until the first step.
  double prompt_seconds = 0; ///< From there to the first token.
  double generation_seconds = 0;
};

/// What became of one choice in one step.
struct Event {
  RequestId request = 0;
  int choice = 0;
  std::string text = {};                ///< Whole UTF-8, no stop string in it.
  std::vector<OutputToken> tokens = {}; ///< Those computed in this step.
  std::optional<Finish> finish = std::nullopt;
  std::string error = {};
  Usage usage = {};
};

/// How the engine stands after a step.
struct EngineStats {
  int num_running = 0;
  int num_waiting = 0;
  int num_blocks = 0;
  int num_available_blocks = 0;
  int num_cached_blocks = 0;
  std::uint64_t num_steps = 0;
  std::uint64_t num_preemptions = 0;
  std::uint64_t num_prompt_tokens = 0; ///< Computed, not found in the cache.
  std::uint64_t num_cached_tokens = 0;
  std::uint64_t num_generated_tokens = 0;
  std::uint64_t num_failed_steps = 0;
  /// Generated ones whose step began before the tokens ahead were known.
  std::uint64_t num_tokens_ahead = 0;
  double step_seconds = 0; ///< The last step's.
  int step_prompt_tokens = 0;
  int step_sequences = 0;
};

struct StepReport {
  std::vector<Event> events;
  EngineStats stats;
};

/// The queue is full: try again later.
class QueueFull : public Error {
 public:
  using Error::Error;
};

/// The engine takes no requests any more.
class EngineStopped : public Error {
 public:
  using Error::Error;
};

} // namespace qwen3_mlx::engine
