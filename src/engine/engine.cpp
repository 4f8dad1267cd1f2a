// SPDX-License-Identifier: MIT
#include "engine/engine.h"

#include <algorithm>
#include <exception>
#include <filesystem>
#include <limits>
#include <string>
#include <system_error>

#include "engine/prefix_file.h"

namespace qwen3_mlx::engine {
namespace {

// So many steps after each other in which nothing could be computed are no
// request's fault.
constexpr int max_steps_failed_wholly = 3;

int context_of(const Model& model, const EngineOptions& options) {
  const int made_for = model.args().max_position_embeddings;
  return options.max_context > 0 ? std::min(options.max_context, made_for)
                                 : made_for;
}

// A GPU reads 512 tokens at half the speed of 2,048, and these in 50 ms.
EngineOptions with_defaults(EngineOptions options, const Model& model) {
  const bool on_gpu = model.replays_decode_steps();
  if (options.max_step_tokens == 0) {
    options.max_step_tokens = on_gpu ? 2048 : 512;
  }
  if (options.idle_step_factor == 0) {
    options.idle_step_factor = on_gpu ? 1 : 4;
  }
  return options;
}

int idle_step_tokens(const EngineOptions& options) {
  const auto wanted =
      std::int64_t{options.max_step_tokens} * options.idle_step_factor;
  return static_cast<int>(
      std::min<std::int64_t>(wanted, std::numeric_limits<int>::max()));
}

double seconds(Clock::duration duration) {
  return std::chrono::duration<double>(duration).count();
}

SchedulerOptions scheduler_options(
    const EngineOptions& options,
    const KvLayout& layout,
    const MemoryPlan& memory,
    const ModelArgs& args,
    int max_context) {
  // With "dynamic" scaling keys depend on the length that a prompt will have.
  const bool keys_are_reusable = args.rope_scaling.type != RopeType::dynamic;
  return {
      .blocks =
          {.num_blocks = memory.num_blocks,
           .block_size = layout.block_size,
           .prefix_cache = options.prefix_cache && layout.shares_blocks &&
               keys_are_reusable,
           .max_cached_blocks = memory.max_cached_blocks},
      .max_running = options.max_running,
      .max_step_tokens = options.max_step_tokens,
      .max_idle_step_tokens = idle_step_tokens(options),
      .max_context = max_context};
}

} // namespace

struct Engine::Choice {
  RequestId request;
  int index;
  SequenceId sequence;
  TextOutput output;
  TimePoint submitted;
  std::optional<TimePoint> started = std::nullopt;
  std::optional<TimePoint> first_token = std::nullopt;
  // Its place in events_, before that report.
  std::size_t event = 0;
  std::optional<std::uint64_t> event_report = std::nullopt;
};

struct Engine::Active {
  std::optional<TimePoint> deadline;
  std::vector<SequenceId> sequences; // those not ended
};

Engine::Engine(Model model, Tokenizer tokenizer, const EngineOptions& options)
    : model_(std::move(model)), tokenizer_(std::move(tokenizer)),
      options_(with_defaults(options, model_)),
      max_context_(context_of(model_, options)),
      layout_(find_kv_layout(model_, options.kv)),
      memory_(plan_memory(
          model_,
          layout_,
          {options.max_running,
           idle_step_tokens(options_),
           max_context_,
           options.goes_ahead.value_or(model_.replays_decode_steps())},
          options.memory)),
      scheduler_(scheduler_options(
          options_,
          layout_,
          memory_,
          model_.args(),
          max_context_)) {
  const auto vocab_size = static_cast<std::uint32_t>(model_.args().vocab_size);
  if (tokenizer_.id_limit() < vocab_size) {
    throw InvalidArgument(
        "the tokenizer has " + std::to_string(tokenizer_.id_limit()) +
        " tokens, the model " + std::to_string(vocab_size) +
        "; they do not belong together");
  }
}

Engine::~Engine() {
  stop();
  if (thread_.joinable()) {
    thread_.join();
  }
}

void Engine::start(Report report) {
  report_ = std::move(report);
  thread_ = std::thread([this] { run(); });
}

void Engine::submit(Request request) {
  if (!is_open_ || !is_healthy_) {
    throw EngineStopped("the engine takes no requests any more");
  }
  scheduler_.check_fits(
      static_cast<std::int64_t>(request.prompt.size()), request.max_tokens);
  for (const auto id : request.prompt) {
    if (id >= static_cast<std::uint32_t>(model_.args().vocab_size)) {
      throw InvalidArgument(
          "prompt: token id " + std::to_string(id) +
          " is outside the vocabulary of " +
          std::to_string(model_.args().vocab_size));
    }
  }
  validate(request.sampling.params, model_.args().vocab_size);
  const auto limit = max_outstanding();
  if (std::int64_t{num_outstanding_.fetch_add(request.num_choices)} +
          request.num_choices >
      limit) {
    num_outstanding_ -= request.num_choices;
    throw QueueFull(
        "the queue is full: " + std::to_string(limit) +
        " texts are under way or waiting; try again later");
  }
  mailbox_.post(std::move(request));
}

std::int64_t Engine::max_outstanding() const {
  return std::int64_t{options_.max_running} + options_.max_waiting;
}

void Engine::cancel(RequestId id) {
  mailbox_.post(Cancel{id});
}

void Engine::stop() {
  is_open_ = false;
  mailbox_.post(Stop{});
}

std::optional<TimePoint> Engine::busy_since() const {
  const auto since = busy_since_.load();
  return since == 0 ? std::nullopt
                    : std::optional(TimePoint(Clock::duration(since)));
}

void Engine::run() {
  try {
    make_runner();
    restore_prefixes();
    while (!is_stopping_) {
      const bool idle = scheduler_.idle();
      busy_since_ = idle ? 0 : Clock::now().time_since_epoch().count();
      if (idle) {
        runner_->abandon(); // what was begun for texts that have ended
      }
      for (auto& message : idle ? mailbox_.wait() : mailbox_.take()) {
        handle(std::move(message));
      }
      expire(Clock::now());
      if (!scheduler_.idle() && !is_stopping_) {
        busy_since_ = Clock::now().time_since_epoch().count();
        step();
      }
      tell();
    }
    finish_all(Finish::shutdown, "the server is shutting down");
    tell(); // what follows may take long
    keep_prefixes();
  } catch (const std::exception& error) {
    // Whatever it was, nobody is left waiting.
    is_healthy_ = false;
    notice(std::string("the engine gave up: ") + error.what());
    finish_all(Finish::error, error.what());
  }
  is_healthy_ = false;
  is_open_ = false;
  // Requests that came in between get an answer as well.
  for (auto& message : mailbox_.take()) {
    if (auto* request = std::get_if<Request>(&message)) {
      for (int i = 0; i < request->num_choices; ++i) {
        events_.push_back(
            {.request = request->id,
             .choice = i,
             .finish = Finish::shutdown,
             .error = "the server is shutting down"});
      }
    }
  }
  tell();
  executor_.reset();
  runner_.reset();
  busy_since_ = 0;
}

void Engine::make_runner() {
  auto storage = layout_.make(memory_.num_blocks);
  const bool replays = model_.replays_decode_steps();
  const bool goes_ahead =
      options_.goes_ahead.value_or(replays) && storage->can_step_back();
  runner_ = std::make_unique<Runner>(
      model_, std::move(storage), options_.decodes_apart.value_or(replays));
  executor_ = std::make_unique<StepExecutor>(
      scheduler_,
      *runner_,
      ExecutorOptions{goes_ahead, options_.max_step_tokens});
}

std::string Engine::prefix_identity() const {
  std::uint64_t words = 0;
  for (std::uint32_t id = 0; id < tokenizer_.vocab_size(); ++id) {
    for (const char c : tokenizer_.id_to_token(id).value_or("") + '\n') {
      words = (words ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
    }
  }
  return "model " + model_.fingerprint() + "\ntokenizer " +
      std::to_string(words) + "\nkeys and values " + layout_.form + "\n" +
      options_.arithmetic;
}

void Engine::restore_prefixes() {
  std::error_code ec;
  if (options_.prefix_file.empty() || !layout_.shares_blocks ||
      !std::filesystem::exists(options_.prefix_file, ec)) {
    return;
  }
  try {
    const int count = load_prefixes(
        options_.prefix_file,
        prefix_identity(),
        scheduler_.blocks(),
        runner_->storage());
    notice("took " + std::to_string(count) + " blocks of the prefix cache in");
  } catch (const Error& error) {
    notice(std::string("prefix cache ignored: ") + error.what());
  }
}

void Engine::keep_prefixes() {
  if (options_.prefix_file.empty() || !layout_.shares_blocks) {
    return;
  }
  try {
    const int count = save_prefixes(
        options_.prefix_file,
        prefix_identity(),
        scheduler_.blocks(),
        runner_->storage());
    notice("kept " + std::to_string(count) + " blocks of the prefix cache");
  } catch (const Error& error) {
    notice(std::string("prefix cache not kept: ") + error.what());
  }
}

void Engine::notice(const std::string& text) const {
  if (options_.notice) {
    options_.notice(text);
  }
}

void Engine::handle(Message message) {
  if (auto* request = std::get_if<Request>(&message)) {
    begin(std::move(*request));
  } else if (const auto* cancel = std::get_if<Cancel>(&message)) {
    end(cancel->id);
  } else {
    is_stopping_ = true;
  }
}

void Engine::begin(Request request) {
  const auto now = Clock::now();
  std::optional<SequenceId> first;
  const auto seed = request.sampling.params.seed.value_or(random_seed());
  for (int i = 0; i < request.num_choices; ++i) {
    const auto id = ++last_sequence_;
    auto sampling = request.sampling;
    sampling.params.seed = seed + static_cast<std::uint64_t>(i);
    choices_.emplace(
        id, Choice{request.id, i, id, TextOutput(request, tokenizer_), now});
    requests_.try_emplace(request.id, Active{request.deadline, {}})
        .first->second.sequences.push_back(id);
    try {
      runner_->open(id, sampling);
      scheduler_.add(
          {.id = id,
           .prompt = request.prompt,
           .max_tokens = request.max_tokens,
           .priority = request.priority,
           .user = request.user,
           .arrival = now,
           .parent = layout_.shares_blocks ? first : std::nullopt});
    } catch (const Error& error) {
      fail(id, error.what());
    }
    first = first.value_or(id);
  }
}

// Without events: nobody listens any more.
void Engine::end(RequestId id) {
  const auto found = requests_.find(id);
  if (found == requests_.end()) {
    return;
  }
  for (const auto sequence : found->second.sequences) {
    scheduler_.remove(sequence);
    runner_->close(sequence);
    choices_.erase(sequence);
    --num_outstanding_;
  }
  requests_.erase(found);
}

void Engine::expire(TimePoint now) {
  std::vector<SequenceId> late;
  for (const auto& [id, request] : requests_) {
    if (request.deadline && *request.deadline <= now) {
      late.insert(
          late.end(), request.sequences.begin(), request.sequences.end());
    }
  }
  for (const auto id : late) {
    finish(
        choices_.at(id), Finish::deadline, "the request's time limit is over");
  }
}

void Engine::step() {
  const auto begun = Clock::now();
  const auto plan = scheduler_.plan(begun);
  for (const auto& chunk : plan.chunks) {
    auto& choice = choices_.at(chunk.sequence->id);
    if (!choice.started) {
      choice.started = begun;
      stats_.num_cached_tokens +=
          static_cast<std::uint64_t>(chunk.sequence->num_cached);
    }
  }
  executor_->launch(plan);
  const auto outcome = executor_->collect(plan);
  stats_.num_failed_steps = executor_->num_failed();
  stats_.num_tokens_ahead = runner_->num_tokens_ahead();
  for (const auto& [id, why] : outcome.failed) {
    fail(id, why);
  }
  num_steps_failed_wholly_ =
      outcome.failed_wholly ? num_steps_failed_wholly_ + 1 : 0;
  if (num_steps_failed_wholly_ >= max_steps_failed_wholly) {
    throw Error("the engine gave up: " + outcome.failed.back().second);
  }
  for (const auto& result : outcome.results) {
    take(result);
  }
  stats_.step_seconds = seconds(Clock::now() - begun);
  stats_.step_prompt_tokens = plan.num_prompt_tokens;
  stats_.step_sequences = static_cast<int>(plan.chunks.size());
  stats_.num_prompt_tokens +=
      static_cast<std::uint64_t>(plan.num_prompt_tokens);
  ++stats_.num_steps;
}

void Engine::take(const TokenResult& result) {
  auto& choice = choices_.at(result.id);
  if (!result.is_finite) {
    fail(
        result.id,
        "the model's logits are not finite; the checkpoint may be damaged or "
        "its dtype too narrow");
    return;
  }
  const auto now = Clock::now();
  choice.first_token = choice.first_token.value_or(now);
  const auto token = choice.output.decide(result.token);
  const auto piece = choice.output.add(token);
  ++stats_.num_generated_tokens;
  auto& event = event_of(choice);
  event.text += piece.text;
  event.tokens.push_back(
      {token, token == result.token ? result.logprobs : std::nullopt});
  if (piece.finish) {
    finish(choice, *piece.finish, {});
  } else {
    scheduler_.append(result.id, token);
  }
}

void Engine::fail(SequenceId id, const std::string& why) {
  finish(choices_.at(id), Finish::error, why);
}

Event& Engine::event_of(Choice& choice) {
  if (choice.event_report != num_reports_) {
    choice.event_report = num_reports_;
    choice.event = events_.size();
    events_.push_back({.request = choice.request, .choice = choice.index});
  }
  return events_[choice.event];
}

void Engine::finish(Choice& choice, Finish reason, std::string error) {
  const auto now = Clock::now();
  auto& event = event_of(choice);
  event.finish = reason;
  event.error = std::move(error);
  const auto started = choice.started.value_or(now);
  const auto first_token = choice.first_token.value_or(now);
  event.usage.num_generated = choice.output.num_tokens();
  event.usage.queue_seconds = seconds(started - choice.submitted);
  event.usage.prompt_seconds = seconds(first_token - started);
  event.usage.generation_seconds = seconds(now - first_token);
  if (const auto* sequence = scheduler_.find(choice.sequence)) {
    event.usage.num_prompt = sequence->num_prompt;
    event.usage.num_cached = sequence->num_cached;
  }
  const auto id = choice.sequence;
  scheduler_.remove(id);
  runner_->close(id);
  auto& request = requests_.at(choice.request);
  std::erase(request.sequences, id);
  if (request.sequences.empty()) {
    requests_.erase(choice.request);
  }
  choices_.erase(id);
  --num_outstanding_;
}

void Engine::finish_all(Finish reason, const std::string& error) {
  while (!choices_.empty()) {
    finish(choices_.begin()->second, reason, error);
  }
}

void Engine::tell() {
  stats_.num_running = scheduler_.num_running();
  stats_.num_waiting = scheduler_.num_waiting();
  stats_.num_blocks = scheduler_.blocks().num_blocks();
  stats_.num_available_blocks = scheduler_.blocks().num_available();
  stats_.num_cached_blocks = scheduler_.blocks().num_cached();
  stats_.num_preemptions = scheduler_.num_preemptions();
  ++num_reports_;
  report_({std::exchange(events_, {}), stats_});
}

} // namespace qwen3_mlx::engine
