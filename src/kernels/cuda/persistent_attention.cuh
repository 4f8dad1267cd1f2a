// SPDX-License-Identifier: MIT
// Attention of the one sequence of persistent_step.cu. As decode_attention.cu,
// but a block's 16 warps share one part of a head's positions.
#pragma once

#include "kernels/cuda/attention_pieces.cuh"
#include "kernels/cuda/persistent_fetcher.cuh"
#include "kernels/cuda/persistent_words.cuh"

namespace qwen3_mlx::cuda::persistent {

constexpr int kTile = 16; // positions a warp takes at once
constexpr int kHeads = kBlockRows;
constexpr int kMinSplit = 16;

// Elements between values in shared memory, padded against bank conflicts.
template <int D>
inline constexpr int value_row = D + 8;

template <int D>
constexpr std::size_t attention_bytes() {
  // Queries, then one tile of values a warp; the sums of warps take the place
  // of the tiles.
  const std::size_t queries = kHeads * D * 2;
  const std::size_t tiles = 2UL * kStepWarps * kTile * value_row<D>;
  const std::size_t sums = 4UL * kStepWarps * kHeads * (D + 4);
  return queries + (tiles > sums ? tiles : sums);
}

#if defined(QWEN3_MLX_HAS_WARPGROUPS)

// The positions of a step's one sequence, and those of them that one block of
// threads looks at.
struct Split {
  int position; ///< The new one.
  int kv_head;  ///< num_kv_heads and more: this block has none.
  int idx;
  int count; ///< Of a head.
  int begin;
  int end;

  __device__ __forceinline__ Split(const StepAttention& form, int at)
      : position(at) {
    const int oldest = form.window > 0 ? max(0, position + 1 - form.window) : 0;
    const int length = position + 1 - oldest;
    const int wanted =
        min(min((length + kMinSplit - 1) / kMinSplit,
                static_cast<int>(gridDim.x) / form.num_kv_heads),
            kMaxStepSplits);
    const int size =
        ((length + wanted - 1) / wanted + kTile - 1) / kTile * kTile;
    count = (length + size - 1) / size;
    const int unit = static_cast<int>(blockIdx.x);
    kv_head = unit / count;
    idx = unit % count;
    begin = oldest + idx * size;
    end = min(position + 1, begin + size);
  }

  __device__ __forceinline__ bool has_new() const {
    return end == position + 1;
  }
};

// Queries, and the new key and value if they are of this split.
template <int D>
__device__ __forceinline__ void prepare_heads(
    const StepPhase& phase,
    const StepAttention& form,
    const Split& split,
    const float2* rotations, // sine and cosine [D / 2]
    unsigned flag,
    __nv_bfloat16* queries,
    __nv_bfloat16* keys,
    __nv_bfloat16* values) {
  using T = __nv_bfloat16;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int group = form.num_heads / form.num_kv_heads;
  const bool is_key = warp == kStepWarps - 1;
  const bool is_value = warp == kStepWarps - 2;
  if (warp >= group && !((is_key || is_value) && split.has_new())) {
    return;
  }
  const int head = is_key ? form.num_heads + split.kv_head
      : is_value          ? form.num_heads + form.num_kv_heads + split.kv_head
                          : split.kv_head * group + warp;
  const FlaggedWord* const from = phase.in + head * D + lane;
  FlaggedWord words[D / 32];
  read_until<is_of>(flag, [&] {
    const FlaggedWord* missing = nullptr;
#pragma unroll
    for (int j = 0; j < D / 32; ++j) {
      words[j] = get_word(from + j * 32);
    }
#pragma unroll
    for (int j = 0; j < D / 32; ++j) {
      if (!is_of(words[j], flag)) {
        missing = from + j * 32;
      }
    }
    return missing;
  });
  float v[D / 32];
#pragma unroll
  for (int j = 0; j < D / 32; ++j) {
    v[j] = float_of(words[j]);
  }
  const std::size_t at = static_cast<std::size_t>(split.position) * D;
  if (is_value) {
#pragma unroll
    for (int j = 0; j < D / 32; ++j) {
      values[at + static_cast<std::size_t>(j * 32 + lane)] =
          __float2bfloat16(v[j]);
    }
    return;
  }
  Rotation<D> rotation;
#pragma unroll
  for (int j = 0; j < D / 64; ++j) {
    const float2 both = rotations[j * 32 + lane];
    rotation.sine[j] = both.x;
    rotation.cosine[j] = both.y;
  }
  place_head<T, D>(
      v,
      static_cast<const T*>(is_key ? phase.k_norm : phase.q_norm),
      phase.norm_eps,
      rotation,
      lane,
      is_key ? keys + at : queries + warp * D);
}

__device__ __forceinline__ void prefetch(const void* at) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(at));
}

// An 8 x 8 matrix of two-byte elements, of which a lane holds two neighbours of
// row lane / 4.
__device__ __forceinline__ unsigned transposed(unsigned pair) {
  unsigned out;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;"
               : "=r"(out)
               : "r"(pair));
  return out;
}

// A warp's 16 keys and values: on their way, the former to registers.
template <int D>
struct Tile {
  uint4 keys[2][D / 32];

  __device__ __forceinline__ void load(
      const __nv_bfloat16* from_keys,
      const __nv_bfloat16* from_values,
      int base,
      int end,
      __nv_bfloat16* to_values) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    // Positions past the end are read as the last one, and their weights are 0.
#pragma unroll
    for (int i = 0; i < kTile * D / 8 / 32; ++i) {
      const int chunk = i * 32 + lane;
      const int p = min(base + chunk / (D / 8), end - 1);
      copy_async(
          to_values + chunk / (D / 8) * value_row<D> + chunk % (D / 8) * 8,
          from_values + static_cast<std::size_t>(p) * D + chunk % (D / 8) * 8);
    }
    commit_copies();
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const int p = min(base + j * 8 + lane / 4, end - 1);
      const auto* const key =
          from_keys + static_cast<std::size_t>(p) * D + lane % 4 * 8;
#pragma unroll
      for (int c = 0; c < D / 32; ++c) {
        keys[j][c] = *reinterpret_cast<const uint4*>(key + c * 32);
      }
    }
  }
};

// Adds up the splits of a head: each of its blocks of threads a part of the
// dimensions, a warp four of them at a time, a lane one split.
template <int D>
__device__ __forceinline__ void meet(
    const StepPhase& phase,
    const StepAttention& form,
    const Split& split,
    unsigned flag) {
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int group = form.num_heads / form.num_kv_heads;
  const int fours = group * (D / 4);
  const int end = share_of(fours, split.idx + 1, split.count);
#pragma unroll 1
  for (int i = share_of(fours, split.idx, split.count) + warp; i < end;
       i += kStepWarps) {
    const int head = i / (D / 4);
    const int d = i % (D / 4) * 4;
    float sum[4] = {};
    float best = -INFINITY;
    float weight = 0;
    const FlaggedWord* const from =
        form.workspace +
        static_cast<std::size_t>(
            ((split.kv_head * kMaxStepSplits + lane) * group + head) * (D + 2));
    ulonglong2 words[3] = {};
    read_until<is_of>(flag, [&] {
      const FlaggedWord* missing = nullptr;
      if (lane < split.count) {
        const int places[] = {d, d + 2, D};
#pragma unroll
        for (int k = 0; k < 3; ++k) {
          words[k] = get_words(from + places[k]);
        }
#pragma unroll
        for (int k = 0; k < 3; ++k) {
          if (!both_are_of(words[k], flag)) {
            missing = from + places[k] + (is_of(words[k].x, flag) ? 1 : 0);
          }
        }
      }
      return missing;
    });
    if (lane < split.count) {
      sum[0] = float_of(words[0].x), sum[1] = float_of(words[0].y);
      sum[2] = float_of(words[1].x), sum[3] = float_of(words[1].y);
      best = float_of(words[2].x);
      weight = float_of(words[2].y);
    }
    float most = best;
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) {
      most = fmaxf(most, __shfl_xor_sync(0xffffffffU, most, offset));
    }
    const float factor = exp2_of(best - most);
    weight = warp_sum(weight * factor);
#pragma unroll
    for (float& value : sum) {
      value = warp_sum(value * factor) / weight;
    }
    if (lane < 2) {
      put_word(
          phase.out + ((split.kv_head * group + head) * D + d) / 2 + lane,
          lane == 0 ? pack_bf16(sum[0], sum[1]) : pack_bf16(sum[2], sum[3]),
          flag);
    }
  }
}

// `read_flag` is that of the new query, key and value.
template <int D>
__device__ __forceinline__ void attend(
    const StepPhase& phase,
    const StepAttention& form,
    const DecodeSequence& sequence,
    const Split& split,
    const float2* rotations,
    unsigned read_flag,
    unsigned flag,
    char* room) {
  using T = __nv_bfloat16;
  constexpr int kChunks = D / 32;
  constexpr int kValueRow = value_row<D>;
  auto* const queries = reinterpret_cast<T*>(room);
  auto* const tiles = queries + kHeads * D;
  auto* const sums = reinterpret_cast<float*>(tiles);
  if (split.kv_head >= form.num_kv_heads) {
    return;
  }
  const int tid = static_cast<int>(threadIdx.x);
  const int warp = tid / 32;
  const int lane = tid % 32;
  const int g = lane / 4;
  const int t = lane % 4;
  const int group = form.num_heads / form.num_kv_heads;
  const int end = split.end;
  const std::size_t head_offset = static_cast<std::size_t>(split.kv_head) *
      static_cast<std::size_t>(sequence.capacity) * D;
  T* const keys = static_cast<T*>(sequence.keys) + head_offset;
  T* const values = static_cast<T*>(sequence.values) + head_offset;
  T* const tile_values = tiles + warp * kTile * kValueRow;
  int base = split.begin + warp * kTile;
  // What is there already comes nearer while the phase before ends.
  if (base < end) {
    constexpr int kLine = 64; // elements
#pragma unroll
    for (int i = 0; i < kTile * D / kLine / 32; ++i) {
      const int line = i * 32 + lane;
      const int p = min(base + line / (D / kLine), end - 1);
      const std::size_t at = static_cast<std::size_t>(p) * D +
          static_cast<std::size_t>(line % (D / kLine) * kLine);
      prefetch(keys + at);
      prefetch(values + at);
    }
  }
  prepare_heads<D>(
      phase, form, split, rotations, read_flag, queries, keys, values);
  __syncthreads();

  // Positions are the rows of the products and heads their columns. Columns
  // beyond the group are what shared memory held; columns know nothing of each
  // other. Lanes hold queries of the column g, but what comes out of the
  // columns 2 t and 2 t + 1.
  uint4 q[kChunks];
#pragma unroll
  for (int c = 0; c < kChunks; ++c) {
    q[c] = *reinterpret_cast<const uint4*>(queries + g * D + c * 32 + t * 8);
  }
  float out[D / 16][4] = {}; // dimensions g and g + 8 of 16, of two heads
  float greatest[2] = {-INFINITY, -INFINITY};
  float total[2] = {};
  const float scale = form.scale * 1.4426950408889634F;

#pragma unroll 1
  while (base < end) {
    Tile<D> tile;
    tile.load(keys, values, base, end, tile_values);
    float score[4] = {}; // positions g and g + 8, of two heads
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
      const uint4 low = tile.keys[0][c];
      const uint4 high = tile.keys[1][c];
      product<T>(score, low.x, high.x, low.y, high.y, q[c].x, q[c].y);
      product<T>(score, low.z, high.z, low.w, high.w, q[c].z, q[c].w);
    }
    float weights[4];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const float a = base + g < end ? score[h] * scale : -INFINITY;
      const float b = base + g + 8 < end ? score[h + 2] * scale : -INFINITY;
      float best = fmaxf(greatest[h], fmaxf(a, b));
#pragma unroll
      for (int offset = 4; offset < 32; offset *= 2) {
        best = fmaxf(best, __shfl_xor_sync(0xffffffffU, best, offset));
      }
      const float shrink = exp2_of(greatest[h] - best);
      greatest[h] = best;
      weights[h] = exp2_of(a - best);
      weights[h + 2] = exp2_of(b - best);
      total[h] = total[h] * shrink + (weights[h] + weights[h + 2]);
#pragma unroll
      for (auto& each : out) {
        each[h] *= shrink;
        each[h + 2] *= shrink;
      }
    }
    // As second operands: a lane's are two positions of one head.
    const unsigned w0 = transposed(pack_two(T(), weights[0], weights[1]));
    const unsigned w1 = transposed(pack_two(T(), weights[2], weights[3]));
    wait_for_copies<0>();
    __syncwarp();
#pragma unroll
    for (int n = 0; n < D / 16; ++n) {
      const T* const from = tile_values +
          (lane / 16 * 8 + lane % 8) * kValueRow + n * 16 + lane / 8 % 2 * 8;
      unsigned v[4];
      asm volatile(
          "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
          : "=r"(v[0]), "=r"(v[1]), "=r"(v[2]), "=r"(v[3])
          : "r"(shared_address(from))
          : "memory");
      product<T>(out[n], v[0], v[1], v[2], v[3], w0, w1);
    }
    __syncwarp();
    base += kStepWarps * kTile;
  }
#pragma unroll
  for (int h = 0; h < 2; ++h) {
#pragma unroll
    for (int offset = 4; offset < 32; offset *= 2) {
      total[h] += __shfl_xor_sync(0xffffffffU, total[h], offset);
    }
  }
  __syncthreads(); // tiles give way to sums [warp][head][D + 4]
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int head = t * 2 + h;
    if (head < group) {
      float* const to = sums + (warp * kHeads + head) * (D + 4);
#pragma unroll
      for (int n = 0; n < D / 16; ++n) {
        to[n * 16 + g] = out[n][h];
        to[n * 16 + g + 8] = out[n][h + 2];
      }
      if (g == 0) {
        to[D] = greatest[h];
        to[D + 1] = total[h];
      }
    }
  }
  __syncthreads();

  FlaggedWord* const workspace = form.workspace +
      static_cast<std::size_t>((split.kv_head * kMaxStepSplits + split.idx) *
                               group * (D + 2));
#pragma unroll 1
  for (int i = tid; i < group * D; i += kThreads) {
    const int head = i / D;
    const int d = i % D;
    const float* const from = sums + head * (D + 4);
    constexpr int kNext = kHeads * (D + 4); // the next warp's
    float best = from[D];
#pragma unroll 5
    for (int w = 1; w < kStepWarps; ++w) {
      best = fmaxf(best, from[w * kNext + D]);
    }
    float sum = 0;
    float weight = 0;
#pragma unroll 4
    for (int w = 0; w < kStepWarps; ++w) {
      // Warps without positions have the factor 0.
      const float factor = exp2_of(from[w * kNext + D] - best);
      sum += factor * from[w * kNext + d];
      weight += factor * from[w * kNext + D + 1];
    }
    FlaggedWord* const to = workspace + head * (D + 2);
    put_word(to + d, __float_as_uint(sum), flag);
    if (d < 2) {
      put_word(to + D + d, __float_as_uint(d == 0 ? best : weight), flag);
    }
  }
  meet<D>(phase, form, split, flag);
}

#endif

} // namespace qwen3_mlx::cuda::persistent
