// SPDX-License-Identifier: MIT
// The subcommands of the program: each is one file that defines add_<name>().
//
// add_<name>() adds its subcommand, the options and a callback that runs it.
// Errors are thrown, never printed (main.cpp maps them to messages and exit
// codes in one place): CLI::ValidationError for wrong usage, qwen3_mlx::Error
// for all else. Text meant for people or scripts goes to std::cout, progress
// and statistics to std::cerr.
#pragma once

#include <CLI/CLI.hpp>

namespace qwen3_mlx::cli {

/// What the process returns. 0: done, 1: failed, 2: wrong usage,
/// 130: interrupted (128 + SIGINT, as shells have it).
struct Exit {
  int code = 0;

  static constexpr int failed = 1;
  static constexpr int usage = 2;
  static constexpr int interrupted = 130;
};

/// Adds every subcommand this build has. Defined by text_commands.cpp (a build
/// without MLX) or all_commands.cpp. `app` and `exit` must outlive the parse.
void add_commands(CLI::App& app, Exit& exit);

/// What --version prints after the program's own version, as in "MLX 0.32.4".
std::string backend_version();

// Text only: these need no MLX.
void add_pull(CLI::App& app, Exit& exit);
void add_list(CLI::App& app, Exit& exit);
void add_remove(CLI::App& app, Exit& exit); // "rm"
void add_tokenize(CLI::App& app, Exit& exit);
void add_template(CLI::App& app, Exit& exit);
void add_completion(CLI::App& app, Exit& exit);

// On a model.
void add_generate(CLI::App& app, Exit& exit);
void add_chat(CLI::App& app, Exit& exit);
void add_info(CLI::App& app, Exit& exit);
void add_bench(CLI::App& app, Exit& exit);
void add_perplexity(CLI::App& app, Exit& exit);
void add_cache_prompt(CLI::App& app, Exit& exit);
void add_convert(CLI::App& app, Exit& exit);
void add_serve(CLI::App& app, Exit& exit); // where Boost is installed

} // namespace qwen3_mlx::cli
