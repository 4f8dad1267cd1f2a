// SPDX-License-Identifier: MIT
#include "kernels/cpu/isa_tables.h"
#include "kernels/cpu/simd_avx512.h"

namespace qwen3_mlx::cpu::avx512bf16 {

#include "kernels/cpu/isa_inl.h"

const KernelTable table = make_table("avx512bf16");

} // namespace qwen3_mlx::cpu::avx512bf16
