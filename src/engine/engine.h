// SPDX-License-Identifier: MIT
// Serves many requests with one model: a thread of its own asks the scheduler
// what to do, has the runner do it and tells the outcome, step by step.
#pragma once

#include <atomic>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <unordered_map>
#include <variant>
#include <vector>

#include "engine/mailbox.h"
#include "engine/memory_plan.h"
#include "engine/request.h"
#include "engine/runner.h"
#include "engine/scheduler.h"
#include "engine/step_executor.h"
#include "engine/text_output.h"

namespace qwen3_mlx::engine {

struct EngineOptions {
  int max_running = 64;  ///< Most sequences in one step.
  int max_waiting = 128; ///< Most in line for a place; then QueueFull.
  /// Prompt tokens of one step; 0: 512, or 2,048 on a GPU...
  int max_step_tokens = 0;
  /// ...and times this where nobody decodes; 0: 4, or 1 on a GPU.
  int idle_step_factor = 0;
  /// Most tokens of a sequence; 0: what the model was made for.
  int max_context = 0;
  bool prefix_cache = true;
  /// Where the prefix cache is kept from one run to the next: read when the
  /// thread starts, written when it stops. A file that does not fit, or that
  /// is damaged, is ignored and replaced. Empty: nowhere.
  std::filesystem::path prefix_file;
  /// Names what keys and values depend on besides model and layout: the
  /// program's version, how it computes.
  std::string arithmetic;
  /// Called on the engine's thread with what an operator may want to know.
  std::function<void(const std::string&)> notice;
  /// Whether sequences that decode pass through the model apart from prompts;
  /// absent: where the model replays such steps.
  std::optional<bool> decodes_apart;
  /// Whether a step begins before the tokens of the one ahead of it are known,
  /// where caches can step back; absent: where the model replays such steps. It
  /// changes no text.
  std::optional<bool> goes_ahead;
  MemoryOptions memory;
  CacheOptions kv; ///< Rotating caches are not shared.
};

/// Everything but the constructor and the destructor may be called from any
/// thread.
class Engine {
 public:
  /// Called on the engine's thread after each step that has something to tell.
  using Report = std::function<void(StepReport)>;

  /// Runs the model once and reserves memory; starts no thread yet. Throws
  /// Error with the numbers when there is not enough.
  Engine(Model model, Tokenizer tokenizer, const EngineOptions& options);
  /// Stops, with what is under way.
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  /// Starts the thread; once.
  void start(Report report);

  /// Takes a request; what becomes of it is told by events, of which the last
  /// of each choice has `finish`. Throws InvalidArgument for what can never
  /// fit (with the numbers) or is out of range, QueueFull, EngineStopped.
  void submit(Request request);
  /// Texts, a request's choices counted one by one, that may be under way or
  /// in line at once.
  std::int64_t max_outstanding() const;
  /// Ends a request without further events, within a step.
  void cancel(RequestId id);
  /// Takes no more requests; ends what is left with Finish::shutdown.
  void stop();

  /// Whether the thread runs and has not given up. It gives up when nothing
  /// that it computes succeeds any more.
  bool is_healthy() const {
    return is_healthy_.load(std::memory_order_acquire);
  }
  /// When the last step ended, or began when there was none to end; a step
  /// that never ends shows here. Nothing while there is no work.
  std::optional<TimePoint> busy_since() const;

  const MemoryPlan& memory() const {
    return memory_;
  }
  int max_context() const {
    return max_context_;
  }
  int block_size() const {
    return layout_.block_size;
  }
  bool shares_blocks() const {
    return layout_.shares_blocks;
  }

 private:
  struct Choice;
  struct Active;
  struct Cancel {
    RequestId id;
  };
  struct Stop {};
  using Message = std::variant<Request, Cancel, Stop>;

  void run();
  std::string prefix_identity() const;
  void restore_prefixes();
  void keep_prefixes();
  void notice(const std::string& text) const;
  void handle(Message message);
  void begin(Request request);
  void end(RequestId id);
  void expire(TimePoint now);
  void make_runner();
  void step();
  void take(const TokenResult& result);
  void fail(SequenceId id, const std::string& why);
  void finish(Choice& choice, Finish reason, std::string error);
  Event& event_of(Choice& choice);
  void tell();
  void finish_all(Finish reason, const std::string& error);

  Model model_;
  Tokenizer tokenizer_;
  EngineOptions options_;
  int max_context_;
  KvLayout layout_;
  MemoryPlan memory_;
  Scheduler scheduler_;

  Mailbox<Message> mailbox_;
  std::atomic<int> num_outstanding_{0}; // choices submitted and not ended
  std::atomic<bool> is_open_{true};
  std::atomic<bool> is_healthy_{true};
  std::atomic<Clock::rep> busy_since_{0}; // 0: no work

  // The engine's thread owns what follows.
  Report report_;
  std::unique_ptr<Runner> runner_;
  std::unique_ptr<StepExecutor> executor_;
  std::unordered_map<RequestId, Active> requests_;
  std::unordered_map<SequenceId, Choice> choices_;
  SequenceId last_sequence_ = 0;
  std::vector<Event> events_; // not told yet
  std::uint64_t num_reports_ = 0;
  EngineStats stats_;
  int num_steps_failed_wholly_ = 0;
  bool is_stopping_ = false;

  std::thread thread_;
};

} // namespace qwen3_mlx::engine
