// SPDX-License-Identifier: MIT
// A packed matrix as the copy engine of compute capability 9.0 sees it.
#pragma once

#include <cuda.h>

#include "kernels/cuda/kernels.h"

namespace qwen3_mlx::cuda {

/// The matrix, or the stack, of a product: `row_blocks` rows of blocks at once,
/// in turn of the first and second half if they are gated. What is beyond its
/// rows reads zeros. Coordinates are [expert, row of blocks, half if gated,
/// bytes / 8].
CUtensorMap map_of(const GemvArgs& args, int row_blocks);

} // namespace qwen3_mlx::cuda
