// SPDX-License-Identifier: MIT
// The kernel tables that isa_*.cpp define. Which of them a build has follows
// from its processor; isa.cpp knows.
#pragma once

#include "kernels/cpu/kernel_table.h"

namespace qwen3_mlx::cpu {

namespace portable {
extern const KernelTable table;
}
namespace avx2 {
extern const KernelTable table;
}
namespace avxvnni {
extern const KernelTable table;
}
namespace avx512 {
extern const KernelTable table;
}
namespace avx512bf16 {
extern const KernelTable table;
}
namespace neon {
extern const KernelTable table;
}
namespace neon_i8mm {
extern const KernelTable table;
}

} // namespace qwen3_mlx::cpu
