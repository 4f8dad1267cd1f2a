// SPDX-License-Identifier: MIT
// The commands of a build without MLX.

#include "cli/commands.h"

namespace qwen3_mlx::cli {

void add_commands(CLI::App& app, Exit& exit) {
  add_pull(app, exit);
  add_list(app, exit);
  add_remove(app, exit);
  add_tokenize(app, exit);
  add_template(app, exit);
  add_completion(app, exit);
}

std::string backend_version() {
  return " (text only)";
}

} // namespace qwen3_mlx::cli
