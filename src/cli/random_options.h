// SPDX-License-Identifier: MIT
// Options for random weights in place of a checkpoint's, to measure speed.
#pragma once

#include <optional>
#include <string>

#include <CLI/CLI.hpp>

#include "cli/model_options.h"

namespace qwen3_mlx::cli {

struct RandomOptions {
  bool random = false;
  std::optional<int> q_bits;
  std::optional<int> q_group_size; ///< As usual for the mode.
  std::optional<std::string> q_mode;
};

/// Adds --random, --q-bits, --q-group-size and --q-mode. `options` must live
/// until the command has run.
void add_random_options(CLI::App& command, RandomOptions& options);

/// Loads the model that `model` names, with a progress bar; with --random makes
/// it from its config.json (`model` is that file or its folder). Throws
/// CLI::ValidationError for a format that MLX does not have.
Model load_or_make(const ModelOptions& model, const RandomOptions& options);

} // namespace qwen3_mlx::cli
