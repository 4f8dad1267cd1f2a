// SPDX-License-Identifier: MIT
// How a product of few rows is cut; the kernel is gemv.cu's.
#pragma once

#include "kernels/cuda/kernels.h"

namespace qwen3_mlx::cuda {

inline constexpr int kGemvWarps = 16;
/// Elements between rows of x in shared memory beyond their number: lanes of
/// different rows then hit different banks.
inline constexpr int kGemvPadding = 32;

/// Blocks that a warp fetches ahead.
template <int Bits>
inline constexpr int gemv_stages = Bits == 4 ? 6
    : Bits == 8                              ? 4
                                             : 3;

/// How x becomes operands.
enum class GemvOperands {
  bf16,  ///< As it is.
  half,  ///< float16: what is normed is near one, and so loses next to nothing.
  split, ///< A sum of two bfloat16.
};

GemvOperands gemv_operands(const GemvArgs& args);

struct GemvShape {
  int units; ///< Rows of blocks, or pairs of them if gated.
  int num_rows;
  int slots; ///< Partial sums that a warp may leave.
};

/// Starts the kernel for `shape.num_rows` rows, or as many pairs of a row and
/// an expert as the grid's second dimension says.
void start_gemv(
    const Launcher& launcher,
    const GemvArgs& args,
    GemvShape shape,
    dim3 grid,
    std::size_t shared_bytes);

} // namespace qwen3_mlx::cuda
