// SPDX-License-Identifier: MIT
// What this machine offers, for bug reports and `info --system`.
#pragma once

#include <nlohmann/json.hpp>

namespace qwen3_mlx::cli {

/// Versions, cores, memory and devices, by name.
nlohmann::ordered_json system_info();

} // namespace qwen3_mlx::cli
