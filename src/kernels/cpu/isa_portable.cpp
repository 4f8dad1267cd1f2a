// SPDX-License-Identifier: MIT
#include "kernels/cpu/isa_tables.h"
#include "kernels/cpu/simd_portable.h"

namespace qwen3_mlx::cpu::portable {

#include "kernels/cpu/isa_inl.h"

const KernelTable table = make_table("portable");

} // namespace qwen3_mlx::cpu::portable
