// SPDX-License-Identifier: MIT
// Which instruction sets this build has and this machine can run.
#pragma once

#include <string_view>
#include <vector>

#include "kernels/cpu/kernel_table.h"

namespace qwen3_mlx::cpu {

/// Tables that run on this machine, best first; "portable" is the last.
std::vector<const KernelTable*> available_kernels();

/// The best of them, or the one that the environment variable QWEN3_MLX_ISA
/// names ("avx512", "avxvnni", "avx2", "neon", "portable"). Throws
/// InvalidArgument when that one cannot run here.
const KernelTable& select_kernels();

/// The one of that name; throws InvalidArgument, listing what there is.
const KernelTable& find_kernels(std::string_view name);

} // namespace qwen3_mlx::cpu
