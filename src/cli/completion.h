// SPDX-License-Identifier: MIT
// Shell completion scripts, generated from the tree of commands and options.
#pragma once

#include <string>

#include <CLI/CLI.hpp>

namespace qwen3_mlx::cli {

enum class Shell { bash, zsh, fish };

/// A script for `shell` that completes `app`'s commands, their options, the
/// values of options with a fixed set of values, and files or folders for
/// options whose type name is FILE, PATH or DIR.
std::string completion_script(const CLI::App& app, Shell shell);

} // namespace qwen3_mlx::cli
