// SPDX-License-Identifier: MIT

#include "cli/commands.h"

namespace qwen3_mlx::cli {

void add_tokenize(CLI::App&, Exit&) {}

} // namespace qwen3_mlx::cli
