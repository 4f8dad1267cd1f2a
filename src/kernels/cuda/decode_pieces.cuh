// SPDX-License-Identifier: MIT
// What the kernels of a decode step's attention share, however a cache keeps
// its numbers: the sequences, their splits, and the meeting of what warps and
// splits have found.
#pragma once

#include "kernels/cuda/attention_pieces.cuh"
#include "kernels/cuda/decode_launch.h"

namespace qwen3_mlx::cuda {

inline constexpr int kDecodeThreads = kDecodeWarps * 32;
inline constexpr int kSequencesPerLaunch = 64;

// Sequences as arguments of a launch.
struct Given {
  DecodeSequence at[kSequencesPerLaunch];

  __device__ __forceinline__ DecodeSequence get(int idx, int) const {
    return at[idx];
  }
};

// Sequences in a table, whose offsets kernels ahead may change.
struct Listed {
  const DecodeSequence* at;
  const int* offsets;

  __device__ __forceinline__ DecodeSequence get(int, int row) const {
    DecodeSequence sequence = at[row];
    sequence.offset = offsets[row];
    return sequence;
  }
};

// What a block of threads looks at: positions [begin, end) of one split.
struct Look {
  int row;
  int kv_head;
  int position; // the new one
  int split;
  int splits; // fewer or as many as blocks
  int begin;
  int end;

  __device__ __forceinline__
  Look(const DecodeAttentionArgs& args, int of_row, int offset)
      : row(of_row), kv_head(static_cast<int>(blockIdx.y)), position(offset),
        split(static_cast<int>(blockIdx.x)) {
    const int oldest = args.window > 0 ? max(0, position + 1 - args.window) : 0;
    const int length = position + 1 - oldest;
    const int size =
        split_size(length, args.min_split > 0 ? args.min_split : kMinSplit);
    splits = (length + size - 1) / size;
    begin = oldest + split * size;
    end = min(position + 1, begin + size);
  }
  // Whether the new position is among them: then it is appended here.
  __device__ __forceinline__ bool appends() const {
    return end == position + 1;
  }
};

__device__ __forceinline__ void
add_scaled(float4& sum, float factor, float4 value) {
  sum.x += factor * value.x;
  sum.y += factor * value.y;
  sum.z += factor * value.z;
  sum.w += factor * value.w;
}

template <class T>
__device__ __forceinline__ void store_four(float4 v, float factor, T* to) {
  *reinterpret_cast<uint2*>(to) = make_uint2(
      pack_two(T(), v.x * factor, v.y * factor),
      pack_two(T(), v.z * factor, v.w * factor));
}

// Bytes for the sums of all warps.
template <int D, int Heads>
inline constexpr std::size_t sums_bytes = 4UL * kDecodeWarps* Heads*(D + 4);

// Adds up what the warps have left in `sums` [warp][Heads][D + 4]: sums, the
// greatest score and the total of weights of each head; then, in the last
// split's block to arrive, what all splits have left in the workspace.
template <class T, int D, int Heads>
__device__ __forceinline__ void meet(
    const DecodeAttentionArgs& args,
    const Look& look,
    int max_splits,
    float* sums) {
  __shared__ unsigned arrived;
  const int tid = static_cast<int>(threadIdx.x);
  const int warp = tid / 32;
  const int lane = tid % 32;
  const int n_heads = args.num_heads;
  const int group = n_heads / args.num_kv_heads;
  T* const result = static_cast<T*>(args.out) +
      static_cast<std::size_t>(look.row) *
          static_cast<std::size_t>(n_heads * D) +
      look.kv_head * group * D;
  float* const workspace = args.workspace +
      static_cast<std::size_t>(look.row * args.num_kv_heads + look.kv_head) *
          static_cast<std::size_t>(max_splits * group * (D + 4));
  for (int i = tid; i < group * (D / 4); i += kDecodeThreads) {
    const int head = i / (D / 4);
    const int d = i % (D / 4) * 4;
    float best = -INFINITY;
#pragma unroll
    for (int w = 0; w < kDecodeWarps; ++w) {
      best = fmaxf(best, sums[(w * Heads + head) * (D + 4) + D]);
    }
    float4 sum = make_float4(0, 0, 0, 0);
    float weight = 0;
#pragma unroll
    for (int w = 0; w < kDecodeWarps; ++w) {
      const float* const from = sums + (w * Heads + head) * (D + 4);
      const float factor = exp2_of(from[D] - best);
      add_scaled(sum, factor, *reinterpret_cast<const float4*>(from + d));
      weight += factor * from[D + 1];
    }
    if (look.splits == 1) {
      store_four(sum, 1.0F / weight, result + head * D + d);
    } else {
      float* const to = workspace + (look.split * group + head) * (D + 4);
      __stcg(reinterpret_cast<float4*>(to + d), sum);
      if (d == 0) {
        __stcg(reinterpret_cast<float2*>(to + D), make_float2(best, weight));
      }
    }
  }
  if (look.splits == 1) {
    return;
  }
  __threadfence();
  __syncthreads();
  unsigned* const counter =
      args.counters + look.row * args.num_kv_heads + look.kv_head;
  if (tid == 0) {
    arrived = atomicAdd(counter, 1U);
  }
  __syncthreads();
  if (arrived + 1 != static_cast<unsigned>(look.splits)) {
    return;
  }
  __threadfence();
  // What each split's part of a head counts for, then the sums.
  float* const factors = sums; // [group][kMaxSplits]
  for (int head = warp; head < group; head += kDecodeWarps) {
    float2 of_split = make_float2(-INFINITY, 0);
    if (lane < look.splits) {
      of_split = __ldcg(reinterpret_cast<const float2*>(
          workspace + (lane * group + head) * (D + 4) + D));
    }
    float best = of_split.x;
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) {
      best = fmaxf(best, __shfl_xor_sync(0xffffffffU, best, offset));
    }
    const float factor = exp2_of(of_split.x - best);
    const float weight = warp_sum(factor * of_split.y);
    factors[head * kMaxSplits + lane] = factor / weight;
  }
  __syncthreads();
  for (int i = tid; i < group * (D / 4); i += kDecodeThreads) {
    const int head = i / (D / 4);
    const int d = i % (D / 4) * 4;
    float4 sum = make_float4(0, 0, 0, 0);
#pragma unroll 8
    for (int s = 0; s < look.splits; ++s) {
      add_scaled(
          sum,
          factors[head * kMaxSplits + s],
          __ldcg(reinterpret_cast<const float4*>(
              workspace + (s * group + head) * (D + 4) + d)));
    }
    store_four(sum, 1.0F, result + head * D + d);
  }
  if (tid == 0) {
    *counter = 0;
  }
}

} // namespace qwen3_mlx::cuda
