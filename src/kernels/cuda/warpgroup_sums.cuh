// SPDX-License-Identifier: MIT
// What becomes of a tile's sums in warpgroup_gemm.cu: parts of other blocks of
// threads are added, then they are stored.
#pragma once

#include <cstddef>

#include "kernels/cuda/warpgroup_plan.cuh"

namespace qwen3_mlx::cuda::warpgroup {

#if defined(QWEN3_MLX_HAS_WARPGROUPS)

// Stores what a warp has of a tile: 16 rows of blocks, 8 of them gates.
template <int N>
__device__ __forceinline__ void store_tile(
    const GemvArgs& args,
    const Plan& plan,
    const Tile& tile,
    const float (&acc)[N / 2],
    float* scratch,
    int warp,
    int lane) {
  const int out_cols = args.gated ? args.layout.rows / 2 : args.layout.rows;
  const int row_in_store = lane / 2;
  const int half = lane % 2;
  const int warps_before = tile.n_tile * kComputeWarps + warp;
  const int width = args.gated ? 4 : 8; // outputs of a lane
  const int col =
      args.gated ? warps_before * 8 + half * 4 : warps_before * 16 + half * 8;
  const bool aligned = out_cols % 8 == 0;
  constexpr int kEights = N < kStoreRows ? 1 : 2;
#pragma unroll
  for (int first = 0; first < N; first += kStoreRows) {
    if (first >= tile.num_rows) {
      break;
    }
    __syncwarp();
#pragma unroll
    for (int j = 0; j < kEights; ++j) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        scratch
            [(j * 8 + lane % 4 * 2 + i % 2) * kStoreStride + lane / 4 +
             i / 2 * 8] = acc[(first / 8 + j) * 4 + i];
      }
    }
    __syncwarp();
    const int row = first + row_in_store;
    if (row >= min(tile.num_rows, N) || col >= out_cols) {
      continue;
    }
    int out_row = tile.first_row + row;
    if (plan.grouped.out_rows != nullptr) {
      out_row = plan.grouped.out_rows[out_row];
    }
    const float* const from = scratch + row_in_store * kStoreStride;
    float v[8];
    const std::size_t at =
        static_cast<std::size_t>(out_row) * static_cast<std::size_t>(out_cols) +
        static_cast<std::size_t>(col);
    const auto* const bias = static_cast<const __nv_bfloat16*>(args.bias);
    if (args.gated) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        float gate = from[half * 4 + i];
        float up = from[8 + half * 4 + i];
        if (bias != nullptr && col + i < out_cols) {
          gate += __bfloat162float(bias[col + i]);
          up += __bfloat162float(bias[out_cols + col + i]);
        }
        v[i] = gate / (1.0F + __expf(-gate)) * up;
        v[4 + i] = 0;
      }
    } else {
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        v[i] = from[half * 8 + i];
        if (bias != nullptr && col + i < out_cols) {
          v[i] += __bfloat162float(bias[col + i]);
        }
      }
    }
    if (!aligned) {
      for (int i = 0; i < width && col + i < out_cols; ++i) {
        float value = v[i];
        if (args.residual != nullptr) {
          value += load_float(
              args.residual, Float::bf16, at + static_cast<std::size_t>(i));
        }
        store_float(
            args.y, Float::bf16, at + static_cast<std::size_t>(i), value);
      }
      continue;
    }
    if (args.gated) {
      if (args.residual != nullptr) {
        const uint2 r = *reinterpret_cast<const uint2*>(
            static_cast<const __nv_bfloat16*>(args.residual) + at);
        v[0] += low_bf16(r.x), v[1] += high_bf16(r.x);
        v[2] += low_bf16(r.y), v[3] += high_bf16(r.y);
      }
      *reinterpret_cast<uint2*>(static_cast<__nv_bfloat16*>(args.y) + at) =
          make_uint2(pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]));
      continue;
    }
    if (args.residual != nullptr) {
      float r[8];
      load_eight(args.residual, Float::bf16, at, r);
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        v[i] += r[i];
      }
    }
    *reinterpret_cast<uint4*>(static_cast<__nv_bfloat16*>(args.y) + at) =
        make_uint4(
            pack_bf16(v[0], v[1]),
            pack_bf16(v[2], v[3]),
            pack_bf16(v[4], v[5]),
            pack_bf16(v[6], v[7]));
  }
}

__device__ __forceinline__ void meet_compute_threads() {
  asm volatile("bar.sync 1, %0;" ::"n"(kComputeThreads) : "memory");
}

// Adds up what other blocks of threads have of a tile that is cut. Whether it
// is complete then, and this block's to store.
template <int N>
__device__ __forceinline__ bool collect(
    const Plan& plan,
    const Run& run,
    int tile_idx,
    float (&acc)[N / 2],
    unsigned* arrived) {
  const int col_blocks = plan.form.col_blocks;
  const int tile_begin = tile_idx * col_blocks;
  const int tile_end = tile_begin + col_blocks;
  if (run.begin <= tile_begin && run.end >= tile_end) {
    return true;
  }
  const int tid = static_cast<int>(threadIdx.x);
  const auto partial_of = [&](int block, int slot) {
    return plan.partial +
        static_cast<std::size_t>(block * 2 + slot) * (N / 2 * kComputeThreads) +
        tid * 4;
  };
  float* const to =
      partial_of(static_cast<int>(blockIdx.x), run.begin > tile_begin ? 0 : 1);
#pragma unroll
  for (int i = 0; i < N / 2; i += 4) {
    __stcg(
        reinterpret_cast<float4*>(to + i * kComputeThreads),
        make_float4(acc[i], acc[i + 1], acc[i + 2], acc[i + 3]));
  }
  __threadfence();
  meet_compute_threads();
  if (tid == 0) {
    *arrived = atomicAdd(plan.counters + tile_idx, 1U);
  }
  meet_compute_threads();
  const int blocks = run.blocks;
  const auto block_with = [&](int unit) {
    return static_cast<int>(
        ((static_cast<unsigned long long>(unit) + 1) *
             static_cast<unsigned>(blocks) -
         1) /
        static_cast<unsigned>(run.total));
  };
  const int first = block_with(tile_begin);
  const int last = block_with(tile_end - 1);
  if (*arrived + 1 != static_cast<unsigned>(last - first + 1)) {
    return false;
  }
  __threadfence();
#pragma unroll
  for (float& sum : acc) {
    sum = 0;
  }
  // Several at a time: each is a long way off. More would spill registers.
  constexpr int kAtOnce = N == 8 ? 8 : N == 16 ? 4 : N <= 64 ? 2 : 1;
  for (int block = first; block <= last; block += kAtOnce) {
    float4 parts[kAtOnce][N / 8];
#pragma unroll
    for (int b = 0; b < kAtOnce; ++b) {
      const bool has = block + b <= last;
      const float* const from = partial_of(
          min(block + b, last),
          part(run.total, min(block + b, last), blocks) > tile_begin ? 0 : 1);
#pragma unroll
      for (int i = 0; i < N / 8; ++i) {
        parts[b][i] = has ? __ldcg(reinterpret_cast<const float4*>(
                                from + i * 4 * kComputeThreads))
                          : make_float4(0, 0, 0, 0);
      }
    }
#pragma unroll
    for (int b = 0; b < kAtOnce; ++b) {
#pragma unroll
      for (int i = 0; i < N / 8; ++i) {
        acc[4 * i] += parts[b][i].x;
        acc[4 * i + 1] += parts[b][i].y;
        acc[4 * i + 2] += parts[b][i].z;
        acc[4 * i + 3] += parts[b][i].w;
      }
    }
  }
  if (tid == 0) {
    plan.counters[tile_idx] = 0;
  }
  return true;
}

#endif

} // namespace qwen3_mlx::cuda::warpgroup
