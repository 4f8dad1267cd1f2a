// SPDX-License-Identifier: MIT
// Options of sampling. What is not given comes from the checkpoint's
// generation_config.json, and without one the most likely token is taken.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "qwen3_mlx/generation_config.h"
#include "qwen3_mlx/sampling.h"

namespace qwen3_mlx::cli {

struct SamplingOptions {
  std::optional<float> temperature;
  std::optional<float> top_p;
  std::optional<float> min_p;
  std::optional<int> top_k;
  std::optional<float> xtc_probability;
  std::optional<float> xtc_threshold;
  std::optional<int> min_tokens_to_keep;
  std::optional<float> repetition_penalty;
  std::optional<float> presence_penalty;
  std::optional<float> frequency_penalty;
  std::optional<int> penalty_window;
  std::vector<std::string> logit_bias; // "ID=BIAS"
  std::optional<std::uint64_t> seed;
};

/// `options` must live until the command has run.
void add_sampling_options(CLI::App& command, SamplingOptions& options);

/// The options over the checkpoint's own defaults. A checkpoint that says
/// do_sample false means temperature 0. Throws CLI::ValidationError for a
/// --logit-bias that is not ID=BIAS with an id below `vocab_size`.
SamplingParams sampling_params(
    const SamplingOptions& options,
    const GenerationConfig& defaults,
    int vocab_size);

} // namespace qwen3_mlx::cli
