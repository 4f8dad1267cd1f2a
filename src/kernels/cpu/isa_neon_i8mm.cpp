// SPDX-License-Identifier: MIT
#include "kernels/cpu/isa_tables.h"
#include "kernels/cpu/simd_neon.h"

namespace qwen3_mlx::cpu::neon_i8mm {

#include "kernels/cpu/isa_inl.h"

const KernelTable table = make_table("neon_i8mm");

} // namespace qwen3_mlx::cpu::neon_i8mm
