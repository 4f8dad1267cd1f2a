// SPDX-License-Identifier: MIT
#include "kernels/cpu/isa_tables.h"
#include "kernels/cpu/simd_avx2.h"

namespace qwen3_mlx::cpu::avxvnni {

#include "kernels/cpu/isa_inl.h"

const KernelTable table = make_table("avxvnni");

} // namespace qwen3_mlx::cpu::avxvnni
