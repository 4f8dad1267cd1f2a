// SPDX-License-Identifier: MIT

#include "cli/bench_trial.h"

#include <mlx/mlx.h>

#include <algorithm>
#include <chrono>
#include <random>

#include "qwen3_mlx/generate.h"

namespace qwen3_mlx::cli {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

std::vector<std::uint32_t> random_ids(std::size_t n_ids, int vocab_size) {
  std::mt19937_64 random(0);
  std::vector<std::uint32_t> ids(n_ids);
  std::generate(ids.begin(), ids.end(), [&] {
    return static_cast<std::uint32_t>(
        random() % static_cast<std::uint64_t>(vocab_size));
  });
  return ids;
}

BenchTrial run_single(
    const Model& model,
    const BenchShape& shape,
    const std::function<bool()>& cancelled) {
  const auto prompt = random_ids(
      static_cast<std::size_t>(shape.prompt_tokens), model.args().vocab_size);
  auto cache = model.make_cache(shape.cache);
  GenerateOptions options;
  options.max_tokens = shape.generation_tokens;
  options.prefill_step_size = shape.prefill_step_size;
  options.stop_ids.emplace(); // random text has no end
  options.cancelled = cancelled;
  Generate tokens(model, cache, prompt, SamplingParams{}, options);
  for (auto at = tokens.begin(); at != tokens.end(); ++at) {
  }
  const auto& timings = tokens.timings();
  return {
      .prompt_tps = timings.prompt_tokens_per_second(),
      .generation_tps = timings.generation_tokens_per_second(),
      .time_to_first_token = timings.prompt_seconds};
}

/// The last row's most likely ids of a step of B sequences in step.
mx::array next_ids(
    const Model& model,
    std::vector<KVCache>& cache,
    const mx::array& tokens /* [B, L] */) {
  const int B = tokens.shape(0);
  const int L = tokens.shape(1);
  std::vector<int> last_rows;
  last_rows.reserve(static_cast<std::size_t>(B));
  for (int row = 0; row < B; ++row) {
    last_rows.push_back((row + 1) * L - 1);
  }
  const Segment segment{.cache = cache, .length = L, .batch = B};
  const auto logits = model.forward(
      {mx::reshape(tokens, {B * L}), {segment}, std::move(last_rows)});
  return mx::reshape(model.most_likely(logits).ids, {B, 1});
}

BenchTrial run_batch(
    const Model& model,
    const BenchShape& shape,
    const std::function<bool()>& cancelled) {
  const int B = shape.batch_size;
  const auto ids = random_ids(
      static_cast<std::size_t>(B) *
          static_cast<std::size_t>(shape.prompt_tokens),
      model.args().vocab_size);
  const mx::array prompt(ids.begin(), {B, shape.prompt_tokens}, mx::uint32);
  auto cache = model.make_cache(shape.cache);

  const auto begin = Clock::now();
  auto tokens = mx::array(0);
  for (int done = 0; done < shape.prompt_tokens;) {
    const int end =
        std::min(done + shape.prefill_step_size, shape.prompt_tokens);
    tokens = next_ids(model, cache, mx::slice(prompt, {0, done}, {B, end}));
    mx::eval(tokens);
    eval_caches(cache);
    done = end;
  }
  const double prompt_seconds = seconds_since(begin);

  // One step ahead, as `generate` does it: the graph of the next step is built
  // while this one runs.
  const auto generation_begin = Clock::now();
  for (int step = 1; step < shape.generation_tokens && !cancelled(); ++step) {
    auto next = next_ids(model, cache, tokens);
    mx::async_eval({next});
    mx::eval(tokens);
    tokens = next;
  }
  mx::eval(tokens);
  const double generation_seconds = seconds_since(generation_begin);

  const double batch = B;
  return {
      .prompt_tps = batch * shape.prompt_tokens / prompt_seconds,
      .generation_tps =
          batch * (shape.generation_tokens - 1) / generation_seconds,
      .time_to_first_token = prompt_seconds};
}

} // namespace

BenchTrial run_trial(
    const Model& model,
    const BenchShape& shape,
    const std::function<bool()>& cancelled) {
  mx::clear_cache();
  mx::reset_peak_memory();
  auto trial = shape.batch_size == 1 ? run_single(model, shape, cancelled)
                                     : run_batch(model, shape, cancelled);
  trial.peak_memory_bytes = mx::get_peak_memory();
  return trial;
}

BenchTrial average(const std::vector<BenchTrial>& trials) {
  BenchTrial mean;
  const auto n = static_cast<double>(trials.size());
  for (const auto& trial : trials) {
    mean.prompt_tps += trial.prompt_tps / n;
    mean.generation_tps += trial.generation_tps / n;
    mean.time_to_first_token += trial.time_to_first_token / n;
    mean.peak_memory_bytes =
        std::max(mean.peak_memory_bytes, trial.peak_memory_bytes);
  }
  return mean;
}

} // namespace qwen3_mlx::cli
