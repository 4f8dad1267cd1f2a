// SPDX-License-Identifier: MIT
// Sampling as an MLX primitive on the CPU.
#pragma once

#include "kernels/cpu/sampling.h"
#include "mlx/array.h"
#include "mlx/stream.h"

namespace qwen3_mlx::cpu {
namespace mx = mlx::core;

/// logits [R, V], float32, float16 or bfloat16, not empty -> ids [R] uint32.
/// `draws` [R, 2] float32 is not read when greedy; `window` [R, W] int32 is
/// read where `form` penalizes.
mx::array sampling_op(
    const mx::array& logits,
    const mx::array& draws,
    const mx::array& window,
    const SamplingForm& form,
    bool penalizes,
    mx::Stream stream);

} // namespace qwen3_mlx::cpu
