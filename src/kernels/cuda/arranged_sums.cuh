// SPDX-License-Identifier: MIT
// The sums of a group's elements that arranged rows carry (arranged_rows.h).
#pragma once

#include "kernels/cuda/device_code.cuh"

namespace qwen3_mlx::cuda {

// A sum as bfloat16 numbers that add up to it.
struct Parts {
  float high;
  float middle;
  float low;

  __device__ __forceinline__ explicit Parts(float sum) {
    const auto rounded = [](float value) {
      return __bfloat162float(__float2bfloat16(value));
    };
    high = rounded(sum);
    middle = rounded(sum - high);
    low = rounded(sum - high - middle);
  }
};

// A part of a sum, once for the scale and once for the bias.
__device__ __forceinline__ unsigned sum_pair(float offset, float part) {
  return pack_bf16(-offset * part, part);
}

} // namespace qwen3_mlx::cuda
