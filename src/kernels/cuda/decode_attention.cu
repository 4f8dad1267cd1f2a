// SPDX-License-Identifier: MIT
// One decode step's attention: norm, rotation, append and the look at the
// cache, one new position of each sequence.
//
// Blocks of threads are (split of the positions, key head, sequence). The query
// heads that share a key head are the rows of tensor-core products: a key is
// read once for all of them. A warp takes 16 positions at a time and keeps a
// running maximum and sum; warps meet in shared memory, splits in a workspace,
// where the last one to arrive adds all up in order. How positions are split
// depends on the sequence's own length alone, and so does every sum.
#include <algorithm>

#include "kernels/cuda/attention_pieces.cuh"
#include "kernels/cuda/kernels.h"

namespace qwen3_mlx::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = kWarps * 32;
constexpr int kTile = 16;  // positions a warp takes at once
constexpr int kHeads = 16; // rows of a product
constexpr int kMaxSplits = 32;
constexpr int kMinSplit = kWarps * kTile;
constexpr int kSequencesPerLaunch = 64;

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

// Positions of one split of a sequence that has `length` of them.
__host__ __device__ constexpr int split_size(int length) {
  const int splits = length / kMinSplit < kMaxSplits
      ? (length + kMinSplit - 1) / kMinSplit
      : kMaxSplits;
  const int each = (length + splits - 1) / splits;
  return (each + kMinSplit - 1) / kMinSplit * kMinSplit;
}

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

// Elements between values in shared memory, padded against bank conflicts.
template <int D>
inline constexpr int value_row = D + 8;

template <int D>
constexpr std::size_t shared_bytes() {
  // Queries, then one tile of values a warp; the sums of warps take the place
  // of the tiles.
  const std::size_t queries = kHeads * D * 2;
  const std::size_t tiles = 2UL * kWarps * kTile * value_row<D>;
  const std::size_t sums = 4UL * kWarps * kHeads * (D + 4);
  return queries + (tiles > sums ? tiles : sums);
}

template <class T, int D, class Sequences>
__global__ void __launch_bounds__(kThreads) decode_kernel(
    const DecodeAttentionArgs args,
    const Sequences sequences,
    int first_sequence,
    int max_splits) {
  constexpr int kChunks = D / 32;
  constexpr int kValueRow = value_row<D>;
  extern __shared__ __align__(16) char shared[];
  auto* const queries = reinterpret_cast<T*>(shared);
  auto* const tiles = queries + kHeads * D;
  auto* const sums = reinterpret_cast<float*>(tiles);
  __shared__ unsigned arrived;

  const int tid = static_cast<int>(threadIdx.x);
  const int warp = tid / 32;
  const int lane = tid % 32;
  const int g = lane / 4;
  const int t = lane % 4;
  const int split = static_cast<int>(blockIdx.x);
  const int kv_head = static_cast<int>(blockIdx.y);
  const int row = first_sequence + static_cast<int>(blockIdx.z);
  let_next_start();
  wait_for_previous();
  const DecodeSequence sequence =
      sequences.get(static_cast<int>(blockIdx.z), row);
  const int position = sequence.offset;
  const int oldest = args.window > 0 ? max(0, position + 1 - args.window) : 0;
  const int length = position + 1 - oldest;
  const int size = split_size(length);
  const int splits = (length + size - 1) / size;
  if (split >= splits) {
    return;
  }
  const int begin = oldest + split * size;
  const int end = min(position + 1, begin + size);

  const int n_heads = args.num_heads;
  const int group = n_heads / args.num_kv_heads;
  const T* const qkv = static_cast<const T*>(args.qkv) +
      static_cast<std::size_t>(row) *
          static_cast<std::size_t>((n_heads + 2 * args.num_kv_heads) * D);
  const std::size_t head_offset = static_cast<std::size_t>(kv_head) *
      static_cast<std::size_t>(sequence.capacity) * D;
  T* const keys = static_cast<T*>(sequence.keys) + head_offset;
  T* const values = static_cast<T*>(sequence.values) + head_offset;

  const auto rotation = rotation_of<D>(args.periods, position, lane);
  // Rows beyond the group stay as they are: rows of a product know nothing of
  // each other.
  for (int head = warp; head < group; head += kWarps) {
    prepare_head<T, D>(
        qkv + (kv_head * group + head) * D,
        static_cast<const T*>(args.q_norm),
        args.norm_eps,
        rotation,
        lane,
        queries + head * D);
  }
  if (end == position + 1) {
    const std::size_t at = static_cast<std::size_t>(position) * D;
    if (warp == kWarps - 1) {
      prepare_head<T, D>(
          qkv + (n_heads + kv_head) * D,
          static_cast<const T*>(args.k_norm),
          args.norm_eps,
          rotation,
          lane,
          keys + at);
    } else if (warp == 0) {
      const T* const from = qkv + (n_heads + args.num_kv_heads + kv_head) * D;
      for (int d = lane; d < D; d += 32) {
        values[at + static_cast<std::size_t>(d)] = from[d];
      }
    }
  }
  __syncthreads();

  // Queries as first operands: rows g and g + 8, and of each chunk of 32
  // dimensions the eight neighbours at 8 t, as keys are read.
  uint4 q_low[kChunks];
  uint4 q_high[kChunks];
#pragma unroll
  for (int c = 0; c < kChunks; ++c) {
    q_low[c] =
        *reinterpret_cast<const uint4*>(queries + g * D + c * 32 + t * 8);
    q_high[c] =
        *reinterpret_cast<const uint4*>(queries + (g + 8) * D + c * 32 + t * 8);
  }

  float out[D / 8][4] = {};
  float greatest[2] = {-INFINITY, -INFINITY};
  float total[2] = {};
  T* const tile = tiles + warp * kTile * kValueRow;
  const float scale = args.scale * 1.4426950408889634F;

  for (int base = begin + warp * kTile; base < end; base += kWarps * kTile) {
    // Positions past the end are read as the last one, and their weights are 0.
    for (int i = lane; i < kTile * (D / 8); i += 32) {
      const int p = min(base + i / (D / 8), end - 1);
      copy_async(
          tile + i / (D / 8) * kValueRow + i % (D / 8) * 8,
          values + static_cast<std::size_t>(p) * D + i % (D / 8) * 8);
    }
    commit_copies();
    float score[2][4] = {};
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const int p = min(base + j * 8 + g, end - 1);
      const T* const key = keys + static_cast<std::size_t>(p) * D + t * 8;
      uint4 k[kChunks];
#pragma unroll
      for (int c = 0; c < kChunks; ++c) {
        k[c] = *reinterpret_cast<const uint4*>(key + c * 32);
      }
#pragma unroll
      for (int c = 0; c < kChunks; ++c) {
        product<T>(
            score[j],
            q_low[c].x,
            q_high[c].x,
            q_low[c].y,
            q_high[c].y,
            k[c].x,
            k[c].y);
        product<T>(
            score[j],
            q_low[c].z,
            q_high[c].z,
            q_low[c].w,
            q_high[c].w,
            k[c].z,
            k[c].w);
      }
    }
    unsigned weights[4]; // rows g and g + 8 of tiles 0 and 1
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float best = greatest[half];
#pragma unroll
      for (int j = 0; j < 2; ++j) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          float& s = score[j][half * 2 + i];
          s = base + j * 8 + t * 2 + i < end ? s * scale : -INFINITY;
          best = fmaxf(best, s);
        }
      }
      best = fmaxf(best, __shfl_xor_sync(0xffffffffU, best, 1));
      best = fmaxf(best, __shfl_xor_sync(0xffffffffU, best, 2));
      const float shrink = exp2_of(greatest[half] - best);
      greatest[half] = best;
      float sum = 0;
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const float a = exp2_of(score[j][half * 2] - best);
        const float b = exp2_of(score[j][half * 2 + 1] - best);
        sum += a + b;
        weights[j * 2 + half] = pack_two(T(), a, b);
      }
      total[half] = total[half] * shrink + sum;
#pragma unroll
      for (int n = 0; n < D / 8; ++n) {
        out[n][half * 2] *= shrink;
        out[n][half * 2 + 1] *= shrink;
      }
    }
    wait_for_copies<0>();
    __syncwarp();
#pragma unroll
    for (int n = 0; n < D / 16; ++n) {
      const T* const from = tile + (lane / 8 % 2 * 8 + lane % 8) * kValueRow +
          n * 16 + lane / 16 * 8;
      const auto address =
          static_cast<unsigned>(__cvta_generic_to_shared(from));
      unsigned v[4];
      asm volatile(
          "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
          : "=r"(v[0]), "=r"(v[1]), "=r"(v[2]), "=r"(v[3])
          : "r"(address)
          : "memory");
      product<T>(
          out[n * 2],
          weights[0],
          weights[1],
          weights[2],
          weights[3],
          v[0],
          v[1]);
      product<T>(
          out[n * 2 + 1],
          weights[0],
          weights[1],
          weights[2],
          weights[3],
          v[2],
          v[3]);
    }
    __syncwarp();
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    total[half] += __shfl_xor_sync(0xffffffffU, total[half], 1);
    total[half] += __shfl_xor_sync(0xffffffffU, total[half], 2);
  }
  __syncthreads(); // tiles give way to sums [warp][head][D + 4]
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int head = g + half * 8;
    if (head < group) {
      float* const to = sums + (warp * kHeads + head) * (D + 4);
#pragma unroll
      for (int n = 0; n < D / 8; ++n) {
        to[n * 8 + t * 2] = out[n][half * 2];
        to[n * 8 + t * 2 + 1] = out[n][half * 2 + 1];
      }
      if (t == 0) {
        to[D] = greatest[half];
        to[D + 1] = total[half];
      }
    }
  }
  __syncthreads();

  T* const result = static_cast<T*>(args.out) +
      static_cast<std::size_t>(row) * static_cast<std::size_t>(n_heads * D) +
      kv_head * group * D;
  float* const workspace = args.workspace +
      static_cast<std::size_t>(row * args.num_kv_heads + kv_head) *
          static_cast<std::size_t>(max_splits * group * (D + 4));
  for (int i = tid; i < group * (D / 4); i += kThreads) {
    const int head = i / (D / 4);
    const int d = i % (D / 4) * 4;
    float best = -INFINITY;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      best = fmaxf(best, sums[(w * kHeads + head) * (D + 4) + D]);
    }
    float4 sum = make_float4(0, 0, 0, 0);
    float weight = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      const float* const from = sums + (w * kHeads + head) * (D + 4);
      const float factor = exp2_of(from[D] - best);
      add_scaled(sum, factor, *reinterpret_cast<const float4*>(from + d));
      weight += factor * from[D + 1];
    }
    if (splits == 1) {
      store_four(sum, 1.0F / weight, result + head * D + d);
    } else {
      float* const to = workspace + (split * group + head) * (D + 4);
      __stcg(reinterpret_cast<float4*>(to + d), sum);
      if (d == 0) {
        __stcg(reinterpret_cast<float2*>(to + D), make_float2(best, weight));
      }
    }
  }
  if (splits == 1) {
    return;
  }
  __threadfence();
  __syncthreads();
  unsigned* const counter = args.counters + row * args.num_kv_heads + kv_head;
  if (tid == 0) {
    arrived = atomicAdd(counter, 1U);
  }
  __syncthreads();
  if (arrived + 1 != static_cast<unsigned>(splits)) {
    return;
  }
  __threadfence();
  // What each split's part of a head counts for, then the sums.
  float* const factors = sums; // [group][kMaxSplits]
  for (int head = warp; head < group; head += kWarps) {
    float2 of_split = make_float2(-INFINITY, 0);
    if (lane < splits) {
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
  for (int i = tid; i < group * (D / 4); i += kThreads) {
    const int head = i / (D / 4);
    const int d = i % (D / 4) * 4;
    float4 sum = make_float4(0, 0, 0, 0);
#pragma unroll 8
    for (int s = 0; s < splits; ++s) {
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

int most_splits(
    const DecodeAttentionArgs& args,
    std::span<const DecodeSequence> sequences) {
  int most = 1;
  for (const auto& sequence : sequences) {
    int length = sequence.offset + 1;
    if (args.window > 0) {
      length = std::min(length, args.window);
    }
    most = std::max(most, splits_of(length));
  }
  return most;
}

template <class T, int D>
void start(
    const Launcher& launcher,
    const DecodeAttentionArgs& args,
    std::span<const DecodeSequence> sequences) {
  const int splits = most_splits(args, sequences);
  for (std::size_t first = 0; first < sequences.size();
       first += kSequencesPerLaunch) {
    Given some{};
    const auto count =
        std::min<std::size_t>(kSequencesPerLaunch, sequences.size() - first);
    std::copy_n(
        sequences.begin() + static_cast<std::ptrdiff_t>(first), count, some.at);
    launch(
        launcher,
        "attention",
        decode_kernel<T, D, Given>,
        dim3(
            static_cast<unsigned>(splits),
            static_cast<unsigned>(args.num_kv_heads),
            static_cast<unsigned>(count)),
        kThreads,
        shared_bytes<D>(),
        args,
        some,
        static_cast<int>(first),
        splits);
  }
}

template <class T, int D>
void start(
    const Launcher& launcher,
    const DecodeAttentionArgs& args,
    const DecodeTable& table) {
  launch(
      launcher,
      "attention",
      decode_kernel<T, D, Listed>,
      dim3(
          static_cast<unsigned>(table.max_splits),
          static_cast<unsigned>(args.num_kv_heads),
          static_cast<unsigned>(table.count)),
      kThreads,
      shared_bytes<D>(),
      args,
      Listed{table.sequences, table.offsets},
      0,
      table.max_splits);
}

template <class Sequences>
void start_any(
    const Launcher& launcher,
    const DecodeAttentionArgs& args,
    const Sequences& sequences) {
  const auto with_type = [&]<class T>(T) {
    return args.head_dim == 64 ? start<T, 64>(launcher, args, sequences)
                               : start<T, 128>(launcher, args, sequences);
  };
  return args.type == Float::f16 ? with_type(__half())
                                 : with_type(__nv_bfloat16());
}

} // namespace

bool supports_decode(
    Float type,
    int num_heads,
    int num_kv_heads,
    int head_dim) {
  return type != Float::f32 && (head_dim == 64 || head_dim == 128) &&
      num_kv_heads > 0 && num_heads % num_kv_heads == 0 &&
      num_heads / num_kv_heads <= kHeads;
}

int splits_of(int length) {
  const int size = split_size(length);
  return (length + size - 1) / size;
}

std::size_t
decode_workspace(const DecodeAttentionArgs& args, int count, int max_splits) {
  return static_cast<std::size_t>(count) *
      static_cast<std::size_t>(args.num_heads) *
      static_cast<std::size_t>(max_splits) *
      static_cast<std::size_t>(args.head_dim + 4);
}

std::size_t decode_workspace(
    const DecodeAttentionArgs& args,
    std::span<const DecodeSequence> sequences) {
  return decode_workspace(
      args, static_cast<int>(sequences.size()), most_splits(args, sequences));
}

void decode_attention(
    const Launcher& launcher,
    const DecodeAttentionArgs& args,
    std::span<const DecodeSequence> sequences) {
  start_any(launcher, args, sequences);
}

void decode_attention(
    const Launcher& launcher,
    const DecodeAttentionArgs& args,
    const DecodeTable& table) {
  start_any(launcher, args, table);
}

} // namespace qwen3_mlx::cuda
