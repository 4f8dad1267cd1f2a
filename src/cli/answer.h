// SPDX-License-Identifier: MIT
// One answer of the model: generated, decoded and measured.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "cli/text_model.h"
#include "qwen3_mlx/generate.h"

namespace qwen3_mlx::cli {

/// A cache and the ids whose keys and values it holds.
class HeldCache {
 public:
  /// `ids` are what `cache` already holds.
  explicit HeldCache(
      std::vector<KVCache> cache,
      std::vector<std::uint32_t> ids = {});

  /// Makes the cache hold the longest possible prefix of `ids` that leaves at
  /// least one id to read, and returns its length. A cache that cannot be
  /// trimmed to it starts anew.
  std::size_t keep_prefix_of(std::span<const std::uint32_t> ids);

  /// Tells what was read and generated since; the cache itself says how much of
  /// it it holds.
  void extend(std::span<const std::uint32_t> ids);

  std::vector<KVCache>& cache() {
    return cache_;
  }
  const std::vector<std::uint32_t>& ids() const {
    return ids_;
  }

 private:
  void trim_to(std::size_t n_ids);

  std::vector<KVCache> cache_;
  std::vector<std::uint32_t> ids_;
};

struct Answer {
  std::vector<std::uint32_t> ids; // with the id that ended it, if one did
  std::string text;               // without it
  std::vector<TokenLogprobs> logprobs;
  std::optional<FinishReason> finish_reason;
  GenerateTimings timings;
  std::size_t num_cached_tokens = 0;
  std::uint64_t seed = 0;
};

/// Called with each piece of text as it comes.
using TextSink = std::function<void(std::string_view text)>;

/// Continues `prompt`, of which `held` may hold a beginning. `options.stop_ids`
/// must be set. Without a tokenizer there is no text.
Answer generate_answer(
    const Model& model,
    const Tokenizer* tokenizer,
    HeldCache& held,
    std::span<const std::uint32_t> prompt,
    const SamplingParams& params,
    const GenerateOptions& options,
    const TextSink& sink);

/// The ids that end a text: the model's and the tokenizer's, but for
/// `ignore_eos`, and `extra` tokens, each a token of the vocabulary or an id.
/// Throws CLI::ValidationError for one that is neither.
std::vector<std::uint32_t> stop_ids(
    const Model& model,
    const Tokenizer* tokenizer,
    const std::vector<std::string>& extra,
    bool ignore_eos = false);

/// Throws FileError where `ids`, which the tokenizer of `path` gave, hold one
/// that `model` has no row for.
void check_vocabulary(
    std::span<const std::uint32_t> ids,
    const Model& model,
    const std::filesystem::path& path);

/// "Prompt: 26 tokens, 310.0 tokens-per-sec" and so on, as mlx_lm prints it.
std::string describe_timings(const Answer& answer);

/// The same numbers for scripts.
Json timings_json(const Answer& answer);

} // namespace qwen3_mlx::cli
