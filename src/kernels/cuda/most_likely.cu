// SPDX-License-Identifier: MIT
// The greatest logit of each row, and whether all of them are finite, in one
// look. Blocks of threads are (part of the row, row); the last one of a row to
// arrive compares what the parts have found.
#include <algorithm>
#include <cfloat>

#include "kernels/cuda/device_code.cuh"
#include "kernels/cuda/most_likely.h"

namespace qwen3_mlx::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kMaxParts = 32;

struct Found {
  float value;
  unsigned idx;
  unsigned is_finite;
};

__device__ __forceinline__ void
take_better(Found& best, float value, unsigned idx) {
  if (value > best.value || (value == best.value && idx < best.idx)) {
    best.value = value;
    best.idx = idx;
  }
}

__device__ __forceinline__ Found over_warp(Found best) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) {
    const float value = __shfl_xor_sync(0xffffffffU, best.value, offset);
    const unsigned idx = __shfl_xor_sync(0xffffffffU, best.idx, offset);
    take_better(best, value, idx);
  }
  best.is_finite = __all_sync(0xffffffffU, best.is_finite != 0) ? 1U : 0U;
  return best;
}

__device__ __forceinline__ Found nothing_yet() {
  return {-INFINITY, 0xffffffffU, 1U};
}

__device__ __forceinline__ void
write(const MostLikelyArgs& args, int row, const Found& found) {
  // A row without any number.
  const unsigned id = found.idx == 0xffffffffU ? 0U : found.idx;
  args.ids[row] = id;
  args.told[row] = id;
  args.told[args.rows + row] = found.is_finite;
}

__global__ void __launch_bounds__(kThreads)
    most_likely_kernel(const MostLikelyArgs args, int eights_each) {
  __shared__ Found of_warps[kWarps];
  __shared__ unsigned arrived;
  let_next_start();
  wait_for_previous();
  const int tid = static_cast<int>(threadIdx.x);
  const int warp = tid / 32;
  const int lane = tid % 32;
  const int part = static_cast<int>(blockIdx.x);
  const int parts = static_cast<int>(gridDim.x);
  const int row = static_cast<int>(blockIdx.y);
  const std::size_t base =
      static_cast<std::size_t>(row) * static_cast<std::size_t>(args.cols);
  const int end = min((part + 1) * eights_each, args.cols / 8);

  Found best = nothing_yet();
  for (int i = part * eights_each + tid; i < end; i += kThreads) {
    float v[8];
    load_eight(
        args.logits, args.type, base + static_cast<std::size_t>(i) * 8, v);
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      take_better(best, v[j], static_cast<unsigned>(i * 8 + j));
      if (!(fabsf(v[j]) <= FLT_MAX)) {
        best.is_finite = 0;
      }
    }
  }
  best = over_warp(best);
  if (lane == 0) {
    of_warps[warp] = best;
  }
  __syncthreads();
  if (warp != 0) {
    return;
  }
  best = over_warp(lane < kWarps ? of_warps[lane] : nothing_yet());
  if (parts == 1) {
    if (lane == 0) {
      write(args, row, best);
    }
    return;
  }
  auto* const found = static_cast<uint4*>(args.workspace) + row * kMaxParts;
  if (lane == 0) {
    __stcg(
        found + part,
        make_uint4(__float_as_uint(best.value), best.idx, best.is_finite, 0));
    __threadfence();
    arrived = atomicAdd(args.counters + row, 1U);
  }
  __syncwarp();
  if (arrived + 1 != static_cast<unsigned>(parts)) {
    return;
  }
  __threadfence();
  best = nothing_yet();
  if (lane < parts) {
    const uint4 of_part = __ldcg(found + lane);
    best = {__uint_as_float(of_part.x), of_part.y, of_part.z};
  }
  best = over_warp(best);
  if (lane == 0) {
    write(args, row, best);
    args.counters[row] = 0;
  }
}

} // namespace

std::size_t most_likely_workspace(int rows) {
  return static_cast<std::size_t>(rows) * kMaxParts * sizeof(uint4);
}

void most_likely(const Launcher& launcher, const MostLikelyArgs& args) {
  const int parts = std::clamp(4 * launcher.num_sms / args.rows, 1, kMaxParts);
  const int eights_each = (args.cols / 8 + parts - 1) / parts;
  launch(
      launcher,
      "most_likely",
      most_likely_kernel,
      dim3(static_cast<unsigned>(parts), static_cast<unsigned>(args.rows)),
      kThreads,
      0,
      args,
      eights_each);
}

} // namespace qwen3_mlx::cuda
