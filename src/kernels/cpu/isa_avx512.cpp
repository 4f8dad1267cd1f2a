// SPDX-License-Identifier: MIT
#include "kernels/cpu/isa_tables.h"
#include "kernels/cpu/simd_avx512.h"

namespace qwen3_mlx::cpu::avx512 {

#include "kernels/cpu/isa_inl.h"

const KernelTable table = make_table("avx512");

} // namespace qwen3_mlx::cpu::avx512
