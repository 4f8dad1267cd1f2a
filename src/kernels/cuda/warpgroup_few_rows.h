// SPDX-License-Identifier: MIT
// Products of 6 to 32 rows, and of experts' few rows, on GPUs of compute
// capability 9.0, in one kernel with all that is around them.
#pragma once

#include "kernels/cuda/kernels.h"

namespace qwen3_mlx::cuda {

inline constexpr int kMaxFewRows = 32;

/// Whether few_rows_gemm() takes products of that matrix.
bool supports_few_rows(
    const Launcher& launcher,
    const PackedLayout& layout,
    Float type);

/// Whether that is faster than arrange_rows() and warpgroup_gemm() for so many
/// rows, or for tiles of so many rows of experts.
bool prefers_few_rows(
    const Launcher& launcher,
    const PackedLayout& layout,
    Float type,
    int num_rows);
bool prefers_few_expert_rows(
    const Launcher& launcher,
    const PackedLayout& layout,
    Float type,
    int tile_rows);

/// y = x W^T and what is fused with it, the norm too, for up to kMaxFewRows
/// rows, or for tiles of 8, 16 or 32 rows of experts.
void few_rows_gemm(
    const Launcher& launcher,
    const GemvArgs& args,
    const GroupedRows& grouped);

} // namespace qwen3_mlx::cuda
