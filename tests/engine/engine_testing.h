// SPDX-License-Identifier: MIT
// What tests of the engine share: a tiny model, requests for it, and who
// collects its answers.
#pragma once

#include <condition_variable>
#include <map>
#include <mutex>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "engine/engine.h"
#include "testing/temp_dir.h"
#include "testing/tiny_chat_model.h"
#include "testing/tiny_model.h"

namespace qwen3_mlx::engine::testing {

struct Outcome {
  std::string text;
  std::vector<OutputToken> tokens;
  std::optional<Finish> finish;
  std::string error;
  Usage usage;

  std::vector<std::uint32_t> ids() const {
    std::vector<std::uint32_t> ids;
    for (const auto& token : tokens) {
      ids.push_back(token.id);
    }
    return ids;
  }
};

/// Collects the events of an engine.
class Collector {
 public:
  void take(StepReport report) {
    const std::lock_guard lock(mutex_);
    stats_ = report.stats;
    for (auto& event : report.events) {
      auto& outcome = outcomes_[{event.request, event.choice}];
      outcome.text += event.text;
      outcome.tokens.insert(
          outcome.tokens.end(), event.tokens.begin(), event.tokens.end());
      if (event.finish) {
        outcome.finish = event.finish;
        outcome.error = event.error;
        outcome.usage = event.usage;
      }
    }
    changed_.notify_all();
  }
  Outcome wait_for(RequestId id, int choice = 0) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] {
      return outcomes_[{id, choice}].finish.has_value();
    });
    return outcomes_[{id, choice}];
  }
  template <class Condition>
  void wait_until(Condition condition) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return condition(stats_); });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::pair<RequestId, int>, Outcome> outcomes_;
  EngineStats stats_;
};

struct TinyChat {
  explicit TinyChat(Kernels kernels) {
    const qwen3_mlx::testing::TempDir folder;
    qwen3_mlx::testing::write_tiny_chat_model(folder.path());
    model =
        load_model(folder.path(), qwen3_mlx::testing::float32_on_cpu(kernels));
    tokenizer = load_tokenizer(folder.path());
  }
  std::optional<Model> model;
  std::optional<Tokenizer> tokenizer;
};

/// Requests of many kinds, some of which begin alike.
inline std::vector<Request>
mixed_requests(int count, const Tokenizer& tokenizer, unsigned seed = 1) {
  std::mt19937 random(seed);
  const auto upto = [&random](int low, int high) {
    return std::uniform_int_distribution<int>(low, high)(random);
  };
  std::string shared;
  for (int i = 0; i < 300; ++i) {
    shared += static_cast<char>('a' + i * i % 26);
  }
  std::vector<Request> requests;
  for (int i = 0; i < count; ++i) {
    auto text = shared.substr(0, static_cast<std::size_t>(upto(0, 300)));
    for (int n = upto(1, 120); n > 0; --n) {
      text += static_cast<char>('a' + upto(0, 25));
    }
    Request request;
    request.id = static_cast<RequestId>(i) + 1;
    request.prompt = tokenizer.encode(text);
    request.max_tokens = upto(1, 40);
    auto& params = request.sampling.params;
    params.seed = static_cast<std::uint64_t>(i);
    params.temperature = i % 3 == 0 ? 0.0F : 0.9F;
    params.top_k = i % 4 == 1 ? 20 : 0;
    params.top_p = i % 5 == 2 ? 0.8F : 1.0F;
    params.frequency_penalty = i % 7 == 3 ? 0.5F : 0.0F;
    if (i % 6 == 4) {
      params.logit_bias = {{97, 2.0F}};
    }
    request.user = std::string(1, static_cast<char>('a' + i % 3));
    requests.push_back(request);
  }
  return requests;
}

/// What Generate says, alone, with caches of that kind.
inline std::vector<std::uint32_t> solo_tokens(
    const Model& model,
    const Request& request,
    const CacheOptions& caches = {}) {
  auto cache = model.make_cache(caches);
  GenerateOptions options;
  options.max_tokens = request.max_tokens;
  options.stop_ids = request.stop_ids;
  std::vector<std::uint32_t> ids;
  for (const auto id : Generate(
           model, cache, request.prompt, request.sampling.params, options)) {
    ids.push_back(id);
  }
  return ids;
}

} // namespace qwen3_mlx::engine::testing
