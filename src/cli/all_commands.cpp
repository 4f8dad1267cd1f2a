// SPDX-License-Identifier: MIT
// Every command, in the order in which --help lists them.

#include <mlx/version.h>

#include "cli/commands.h"

namespace qwen3_mlx::cli {

void add_commands(CLI::App& app, Exit& exit) {
  add_generate(app, exit);
  add_chat(app, exit);
#ifdef QWEN3_MLX_SERVER
  add_serve(app, exit);
#endif
  add_info(app, exit);
  add_bench(app, exit);
  add_perplexity(app, exit);
  add_cache_prompt(app, exit);
  add_convert(app, exit);
  add_pull(app, exit);
  add_list(app, exit);
  add_remove(app, exit);
  add_tokenize(app, exit);
  add_template(app, exit);
  add_completion(app, exit);
}

std::string backend_version() {
  return std::string(" (MLX ") + mlx::core::version() + ")";
}

} // namespace qwen3_mlx::cli
