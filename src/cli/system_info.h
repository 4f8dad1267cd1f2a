// SPDX-License-Identifier: MIT
// What this machine offers, for bug reports and `info --system`.
#pragma once

#include <cstdint>

#include <nlohmann/json.hpp>

namespace qwen3_mlx::cli {

/// Versions, cores, memory and devices, by name.
nlohmann::ordered_json system_info();

/// The most memory this process had at one time, in bytes, with what MLX's own
/// count does not see: keys and values, stacks, the program.
std::uint64_t max_resident_bytes();

} // namespace qwen3_mlx::cli
