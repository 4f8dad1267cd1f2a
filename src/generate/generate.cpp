// SPDX-License-Identifier: MIT
#include "qwen3_mlx/generate.h"

#include <algorithm>
#include <chrono>

#include "mlx/memory.h"
#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "qwen3_mlx/error.h"

namespace qwen3_mlx {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// MLX keeps freed buffers for reuse; long texts would pile up odd sizes.
constexpr int tokens_between_cache_clearings = 256;

mx::array to_array(std::span<const std::uint32_t> ids) {
  return mx::array(ids.begin(), {static_cast<int>(ids.size())}, mx::uint32);
}

std::vector<std::uint32_t> to_ids(const mx::array& prompt) {
  if (prompt.ndim() != 2 || prompt.shape(0) != 1) {
    throw InvalidArgument(
        "prompt: expected an array [1, L] of token ids, found " +
        std::to_string(prompt.ndim()) + " dimensions and " +
        std::to_string(prompt.size()) + " elements");
  }
  auto ids = mx::contiguous(mx::astype(prompt, mx::uint32));
  ids.eval();
  return {ids.data<std::uint32_t>(), ids.data<std::uint32_t>() + ids.size()};
}

void require(bool condition, const std::string& message) {
  if (!condition) {
    throw InvalidArgument(message);
  }
}

} // namespace

std::string_view to_string(FinishReason reason) {
  switch (reason) {
  case FinishReason::stop:
    return "stop";
  case FinishReason::length:
    return "length";
  case FinishReason::cancelled:
    return "cancelled";
  }
  return "";
}

double GenerateTimings::prompt_tokens_per_second() const {
  return prompt_seconds > 0 ? prompt_tokens / prompt_seconds : 0.0;
}

double GenerateTimings::generation_tokens_per_second() const {
  // The first token belongs to the prompt's time.
  return generation_seconds > 0 ? (generated_tokens - 1) / generation_seconds
                                : 0.0;
}

/// What goes on behind the iterator.
struct Generate::Run {
  // A token whose computation has been launched.
  struct Pending {
    mx::array id;   // [1] uint32
    mx::array told; // [2, 1] uint32: the id, and whether logits are finite
    std::optional<LogProbs> logprobs;

    std::vector<mx::array> arrays() const {
      std::vector<mx::array> all = {id, told};
      if (logprobs) {
        all.insert(
            all.end(), {logprobs->chosen, logprobs->top_ids, logprobs->top});
      }
      return all;
    }
  };

  Run(Model language_model,
      std::vector<KVCache>& kv_cache,
      std::vector<std::uint32_t> prompt_ids,
      const SamplingParams& params,
      GenerateOptions generate_options)
      : model(std::move(language_model)), cache(&kv_cache),
        prompt(std::move(prompt_ids)), options(std::move(generate_options)),
        sampler(params, model.args().vocab_size, seen_tokens()) {
    require(!prompt.empty(), "prompt: expected at least one token");
    const auto vocab_size = static_cast<std::uint32_t>(model.args().vocab_size);
    const auto bad = std::find_if(prompt.begin(), prompt.end(), [&](auto id) {
      return id >= vocab_size;
    });
    require(
        bad == prompt.end(),
        "prompt: token id " + std::to_string(bad == prompt.end() ? 0 : *bad) +
            " is outside the vocabulary of " + std::to_string(vocab_size));
    require(
        options.max_tokens >= 1,
        "max_tokens: expected at least 1, found " +
            std::to_string(options.max_tokens));
    require(
        options.prefill_step_size >= 1,
        "prefill_step_size: expected at least 1, found " +
            std::to_string(options.prefill_step_size));
    require(
        options.top_logprobs >= 0 &&
            options.top_logprobs <= model.args().vocab_size,
        "top_logprobs: expected 0 to the size of the vocabulary, found " +
            std::to_string(options.top_logprobs));
    if (cache->empty()) {
      *cache = model.make_cache();
    }
    if (!options.stop_ids) {
      options.stop_ids = model.eos_token_ids();
    }
    timings.prompt_tokens = static_cast<int>(prompt.size());
  }

  std::vector<std::uint32_t> seen_tokens() const {
    auto seen = options.history;
    seen.insert(seen.end(), prompt.begin(), prompt.end());
    return seen;
  }

  bool is_cancelled() const {
    return options.cancelled && options.cancelled();
  }

  mx::array forward(const mx::array& tokens, bool wants_logits, int total) {
    const int length = tokens.shape(0);
    std::vector<int> rows;
    if (wants_logits) {
      rows.push_back(length - 1);
    }
    Segment segment{.cache = *cache, .length = length};
    segment.prompt_length = total;
    return model.forward({tokens, {segment}, rows});
  }

  Pending choose(const mx::array& logits) {
    if (sampler.is_most_likely()) {
      auto [ids, told] = model.most_likely(logits);
      return {std::move(ids), std::move(told), std::nullopt};
    }
    const auto id = sampler(logits);
    return {id, told_of(id, logits), std::nullopt};
  }

  // Launches the token after `tokens`; nothing is waited for.
  void launch(const mx::array& tokens, int total) {
    const auto logits = forward(tokens, /* wants_logits */ true, total);
    auto token = choose(logits);
    if (options.logprobs || options.top_logprobs > 0) {
      token.logprobs = log_probs_of(logits, token.id, options.top_logprobs);
    }
    pending.emplace(std::move(token));
    mx::async_eval(pending->arrays());
    ++num_launched;
  }

  // Reads the prompt in chunks; false when cancelled on the way.
  bool prefill() {
    const int total = static_cast<int>(prompt.size());
    const int length = cache->front().offset() + total;
    int done = 0;
    while (done < total) {
      if (is_cancelled()) {
        return false;
      }
      const int n = std::min(options.prefill_step_size, total - done);
      const auto chunk = to_array(std::span(prompt).subspan(
          static_cast<std::size_t>(done), static_cast<std::size_t>(n)));
      done += n;
      if (done == total) {
        launch(chunk, length);
      } else {
        forward(chunk, /* wants_logits */ false, length);
        eval_caches(*cache);
        mx::clear_cache();
      }
      if (options.prompt_progress) {
        options.prompt_progress(done, total);
      }
    }
    return true;
  }

  // Whatever `work` throws passes on and ends the range: what was under way is
  // in no state to be continued.
  template <class Work>
  void end_on_error(Work work) {
    try {
      work();
    } catch (...) {
      pending.reset();
      finish(FinishReason::cancelled);
      throw;
    }
  }

  void start() {
    const auto begin = Clock::now();
    if (!prefill()) {
      finish(FinishReason::cancelled);
      return;
    }
    advance();
    timings.prompt_seconds = seconds_since(begin);
    first_token_at = Clock::now();
  }

  // Makes the pending token the current one, with the next one launched first.
  void advance() {
    const auto token = std::move(*pending);
    pending.reset();
    if (num_launched < options.max_tokens) {
      launch(token.id, cache->front().offset() + 1);
    }
    read(token);
    ++timings.generated_tokens;
    if (timings.generated_tokens % tokens_between_cache_clearings == 0) {
      mx::clear_cache();
    }
    const auto& stop_ids = *options.stop_ids;
    is_last =
        std::find(stop_ids.begin(), stop_ids.end(), current) != stop_ids.end();
    if (is_last) {
      drop_pending();
    }
  }

  void read(const Pending& token) {
    auto told = token.told;
    told.eval();
    const auto* const id_and_finite = told.data<std::uint32_t>();
    if (id_and_finite[1] == 0) {
      drop_pending();
      throw Error(
          "the model's logits are not finite at position " +
          std::to_string(cache->front().offset()) +
          "; the checkpoint may be damaged or its dtype too narrow");
    }
    current = id_and_finite[0];
    if (token.logprobs) {
      read(*token.logprobs);
    }
  }

  void read(const LogProbs& arrays) {
    auto chosen = arrays.chosen;
    auto top_ids = mx::contiguous(arrays.top_ids);
    auto top = mx::contiguous(arrays.top);
    mx::eval(chosen, top_ids, top);
    logprobs.id = current;
    logprobs.logprob = chosen.data<float>()[0];
    logprobs.top.clear();
    for (std::size_t i = 0; i < top.size(); ++i) {
      logprobs.top.emplace_back(
          top_ids.data<std::uint32_t>()[i], top.data<float>()[i]);
    }
  }

  // Takes the token that was launched after the last one back out of the
  // cache.
  void drop_pending() {
    if (!pending) {
      return;
    }
    mx::eval(pending->arrays());
    pending.reset();
    const bool can_trim =
        std::all_of(cache->begin(), cache->end(), [](const KVCache& layer) {
          return layer.can_trim(1);
        });
    if (can_trim) {
      for (auto& layer : *cache) {
        layer.trim(1);
      }
    }
  }

  void step() {
    timings.generation_seconds = seconds_since(first_token_at);
    if (is_last) {
      finish(FinishReason::stop);
    } else if (timings.generated_tokens >= options.max_tokens) {
      finish(FinishReason::length);
    } else if (is_cancelled()) {
      drop_pending();
      finish(FinishReason::cancelled);
    } else {
      advance();
      timings.generation_seconds = seconds_since(first_token_at);
    }
  }

  void finish(FinishReason reason) {
    finish_reason = reason;
  }

  Model model;
  std::vector<KVCache>* cache;
  std::vector<std::uint32_t> prompt;
  GenerateOptions options;
  SequenceSampler sampler;
  std::optional<Pending> pending;
  int num_launched = 0;
  bool has_started = false;
  bool is_last = false;
  std::uint32_t current = 0;
  std::optional<FinishReason> finish_reason;
  TokenLogprobs logprobs;
  GenerateTimings timings;
  Clock::time_point first_token_at;
};

Generate::Generate(
    Model model,
    std::vector<KVCache>& cache,
    float temperature,
    const mx::array& prompt)
    : run_(std::make_unique<Run>(
          std::move(model),
          cache,
          to_ids(prompt),
          SamplingParams{.temperature = temperature},
          GenerateOptions{.max_tokens = std::numeric_limits<int>::max()})) {}

Generate::Generate(
    Model model,
    std::vector<KVCache>& cache,
    std::span<const std::uint32_t> prompt,
    const SamplingParams& params,
    GenerateOptions options)
    : run_(std::make_unique<Run>(
          std::move(model),
          cache,
          std::vector<std::uint32_t>(prompt.begin(), prompt.end()),
          params,
          std::move(options))) {}

Generate::~Generate() = default;
Generate::Generate(Generate&&) noexcept = default;
Generate& Generate::operator=(Generate&&) noexcept = default;

Generate::iterator Generate::begin() {
  if (!run_->has_started) {
    run_->has_started = true;
    run_->end_on_error([this] { run_->start(); });
  }
  return iterator(this);
}

std::uint32_t Generate::iterator::operator*() const {
  return generate_->run_->current;
}

Generate::iterator& Generate::iterator::operator++() {
  auto& run = *generate_->run_;
  run.end_on_error([&run] { run.step(); });
  return *this;
}

bool Generate::iterator::operator==(std::default_sentinel_t) const {
  return generate_->run_->finish_reason.has_value();
}

std::optional<FinishReason> Generate::finish_reason() const {
  return run_->finish_reason;
}

const TokenLogprobs& Generate::logprobs() const {
  return run_->logprobs;
}

const GenerateTimings& Generate::timings() const {
  return run_->timings;
}

std::uint64_t Generate::seed() const {
  return run_->sampler.seed();
}

} // namespace qwen3_mlx
