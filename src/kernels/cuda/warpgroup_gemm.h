// SPDX-License-Identifier: MIT
// Products of many rows on GPUs of compute capability 9.0.
#pragma once

#include "kernels/cuda/arranged_rows.h"
#include "kernels/cuda/kernels.h"

namespace qwen3_mlx::cuda {

/// Whether these kernels were compiled for the GPU at hand.
bool has_warpgroup_code();

/// Whether they take such matrices and activations there.
bool supports_warpgroup_gemm(
    const Launcher& launcher,
    const PackedLayout& layout,
    Float type);

/// Rows are arranged so for a product of `num_rows` of them, or for tiles of
/// about as many.
ArrangedForm arranged_form(const PackedLayout& layout, int num_rows);

/// Rows of a tile that suits so many pairs of a token and one of `num_experts`
/// experts; arranged_form() rounds them up.
int expert_rows(int num_pairs, int num_experts);

/// Pairs from which sorting them by expert beats a product for each.
int min_grouped_pairs(const Launcher& launcher, int num_experts);

/// What a product of at most `num_tiles` tiles of rows needs besides its
/// arguments: GemmNeeds without the rows themselves.
GemmNeeds warpgroup_gemm_needs(
    const Launcher& launcher,
    const GemvArgs& args,
    const ArrangedForm& form,
    int num_tiles);

/// y = x W^T and what is fused with it, but no norm, as gemm() and, with tiles
/// of experts, as grouped_gemm(). `arranged` is what arrange_rows() made of x,
/// which is not read.
void warpgroup_gemm(
    const Launcher& launcher,
    const GemvArgs& args,
    const ArrangedForm& form,
    const void* arranged,
    const GroupedRows& grouped,
    float* workspace,
    unsigned* counters);

} // namespace qwen3_mlx::cuda
