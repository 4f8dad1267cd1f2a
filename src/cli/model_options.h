// SPDX-License-Identifier: MIT
// Options that name a model and say how it runs, and what they lead to.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include <CLI/CLI.hpp>

#include "qwen3_mlx/model.h"

namespace qwen3_mlx::cli {

struct ModelOptions {
  std::filesystem::path model;
  std::string name; // as the user gave it, once find_model() has run
  std::string device;
  std::string kernels = "native";
  std::string dtype;
  bool exact = false;
  int threads = 0;
};

/// Adds --model, --device, --kernels, --dtype, --exact and --threads. `options`
/// must live until the command has run.
void add_model_options(CLI::App& command, ModelOptions& options);

/// Adds only --model, which is required.
CLI::Option* add_model_option(CLI::App& command, std::filesystem::path& model);

/// Turns a repository's name in --model into a local path, downloading what is
/// not in the cache (cli/find_model.h).
void find_model(ModelOptions& options);

/// The library's form of the options; no progress callback yet.
LoadOptions load_options(const ModelOptions& options);

/// Loads the model, with a progress bar where stderr is a terminal.
Model load_with_progress(const ModelOptions& options);

} // namespace qwen3_mlx::cli
