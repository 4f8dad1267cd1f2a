// SPDX-License-Identifier: MIT
#include "kernels/cpu/isa_tables.h"
#include "kernels/cpu/simd_avx2.h"

namespace qwen3_mlx::cpu::avx2 {

#include "kernels/cpu/isa_inl.h"

const KernelTable table = make_table("avx2");

} // namespace qwen3_mlx::cpu::avx2
