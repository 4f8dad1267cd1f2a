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

#include "cli/held_cache.h"
#include "cli/text_model.h"
#include "qwen3_mlx/generate.h"

namespace qwen3_mlx::cli {

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

/// Continues `prompt`, of which `held` may hold a beginning; where that fails,
/// `held` is empty. `options.stop_ids` must be set. Without a tokenizer there
/// is no text.
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
