// SPDX-License-Identifier: MIT
// Generating text for one user: a range of token ids, computed one step ahead
// of the reader.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <iterator>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "mlx/array.h"
#include "qwen3_mlx/kv_cache.h"
#include "qwen3_mlx/model.h"
#include "qwen3_mlx/sampling.h"

namespace qwen3_mlx {
namespace mx = mlx::core;

struct GenerateOptions {
  int max_tokens = 256; ///< At least 1.
  /// Prompt tokens of one forward pass; bounds the memory of a long prompt.
  int prefill_step_size = 2048;
  /// Tokens ahead of the prompt, which the cache holds: penalties see them.
  std::vector<std::uint32_t> history;
  /// Ids that end the text, the last one yielded. Default: the model's.
  std::optional<std::vector<std::uint32_t>> stop_ids;
  bool logprobs = false; ///< Fill Generate::logprobs().
  int top_logprobs = 0;  ///< That many of the most likely tokens as well.
  /// Called after each chunk of the prompt, with tokens done and in all.
  std::function<void(int done, int total)> prompt_progress;
  /// Asked between chunks and between tokens; true ends the text.
  std::function<bool()> cancelled;
};

enum class FinishReason { stop, length, cancelled };

/// "stop", "length" or "cancelled".
std::string_view to_string(FinishReason reason);

/// Natural logarithms of probabilities in the model's own distribution, before
/// bias, penalties, filters and temperature.
struct TokenLogprobs {
  std::uint32_t id = 0;
  float logprob = 0;
  std::vector<std::pair<std::uint32_t, float>> top; ///< Best first.
};

struct GenerateTimings {
  int prompt_tokens = 0;
  double prompt_seconds = 0; ///< To the first token.
  int generated_tokens = 0;
  double generation_seconds = 0; ///< From the first token on.

  double prompt_tokens_per_second() const;
  double generation_tokens_per_second() const;
};

/// A single-pass input range of token ids.
///
///     for (std::uint32_t id : Generate(model, cache, prompt)) { ... }
///
/// begin() reads the prompt; each ++ yields a token that was computed while the
/// last one was used. Afterwards the cache holds the prompt and every yielded
/// token but the last (which it holds too when it cannot be taken back, as in
/// a rotating cache: cache[0].offset() tells). Use it on one thread.
class Generate {
 public:
  /// As the crate has it: `prompt` [1, L] of ids, temperature 0 for greedy, as
  /// many tokens as are asked for; an empty `cache` is filled with the
  /// model's. Unlike the crate's it ends at the end of the text.
  Generate(
      Model model,
      std::vector<KVCache>& cache,
      float temperature,
      const mx::array& prompt);
  /// `cache` may already hold what comes before `prompt`, which must not be
  /// empty. Throws InvalidArgument naming the option that is out of range.
  Generate(
      Model model,
      std::vector<KVCache>& cache,
      std::span<const std::uint32_t> prompt,
      const SamplingParams& params = {},
      GenerateOptions options = {});
  ~Generate();
  Generate(Generate&&) noexcept;
  Generate& operator=(Generate&&) noexcept;

  class iterator {
   public:
    using iterator_concept = std::input_iterator_tag;
    using difference_type = std::ptrdiff_t;
    using value_type = std::uint32_t;

    std::uint32_t operator*() const;
    iterator& operator++();
    void operator++(int) {
      ++*this;
    }
    bool operator==(std::default_sentinel_t) const;

   private:
    friend class Generate;
    explicit iterator(Generate* generate) : generate_(generate) {}
    Generate* generate_;
  };

  /// Reads the prompt at the first call. Throws Error when the logits are not
  /// numbers; MLX's errors and those of callbacks pass through. After an error,
  /// here or at a ++, the range is at its end, with reason `cancelled`.
  iterator begin();
  std::default_sentinel_t end() const noexcept {
    return {};
  }

  /// Absent while tokens are still to come.
  std::optional<FinishReason> finish_reason() const;
  /// Of the current token; empty unless asked for.
  const TokenLogprobs& logprobs() const;
  const GenerateTimings& timings() const;
  /// The seed of this text, the given one or one from the system.
  std::uint64_t seed() const;

 private:
  struct Run;
  std::unique_ptr<Run> run_;
};

static_assert(std::input_iterator<Generate::iterator>);

} // namespace qwen3_mlx
