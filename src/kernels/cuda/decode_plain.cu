// SPDX-License-Identifier: MIT
// A decode step's attention over caches of elements.
//
// The query heads that share a key head are the rows of tensor-core products: a
// key is read once for all of them. A warp takes 16 positions at a time and
// keeps a running maximum and sum.
#include <algorithm>

#include "kernels/cuda/decode_pieces.cuh"

namespace qwen3_mlx::cuda {
namespace {

// Elements between rows in shared memory, padded against bank conflicts.
template <int D>
inline constexpr int value_row = D + 8;
template <int D>
inline constexpr int query_row = D > 128 ? D + 32 : D;

template <int D>
constexpr std::size_t shared_bytes() {
  // Queries, then one tile of values a warp; the sums of warps take the place
  // of the tiles.
  const std::size_t queries = kPlainHeads * query_row<D> * 2;
  const std::size_t tiles = 2UL * kDecodeWarps * kDecodeTile * value_row<D>;
  return queries + std::max(tiles, sums_bytes<D, kPlainHeads>);
}

// Queries as first operands: rows g and g + 8, and of each chunk of 32
// dimensions the eight neighbours at 8 t, as keys are read. They stay in
// registers where these suffice for sums too.
template <class T, int D>
struct Queries {
  static constexpr bool kStay = D <= 128;
  const T* from;
  uint4 low[kStay ? D / 32 : 1];
  uint4 high[kStay ? D / 32 : 1];

  __device__ __forceinline__ Queries(const T* queries, int g, int t)
      : from(queries + g * query_row<D> + t * 8) {
    if constexpr (kStay) {
#pragma unroll
      for (int c = 0; c < D / 32; ++c) {
        low[c] = load(c, 0);
        high[c] = load(c, 8);
      }
    }
  }

  __device__ __forceinline__ uint4 load(int chunk, int row) const {
    return *reinterpret_cast<const uint4*>(
        from + row * query_row<D> + chunk * 32);
  }

  // Adds their products with one chunk of eight keys.
  __device__ __forceinline__ void
  multiply(int chunk, const uint4& key, float (&score)[4]) const {
    const uint4 a = kStay ? low[kStay ? chunk : 0] : load(chunk, 0);
    const uint4 b = kStay ? high[kStay ? chunk : 0] : load(chunk, 8);
    product<T>(score, a.x, b.x, a.y, b.y, key.x, key.y);
    product<T>(score, a.z, b.z, a.w, b.w, key.z, key.w);
  }
};

template <class T, int D, class Sequences>
__global__ void __launch_bounds__(kDecodeThreads) decode_kernel(
    const DecodeAttentionArgs args,
    const Sequences sequences,
    int first_sequence,
    int max_splits) {
  constexpr int kChunks = D / 32;
  constexpr int kValueRow = value_row<D>;
  extern __shared__ __align__(16) char shared[];
  auto* const queries = reinterpret_cast<T*>(shared);
  auto* const tiles = queries + kPlainHeads * query_row<D>;
  auto* const sums = reinterpret_cast<float*>(tiles);

  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int g = lane / 4;
  const int t = lane % 4;
  const int row = first_sequence + static_cast<int>(blockIdx.z);
  let_next_start();
  wait_for_previous();
  const DecodeSequence sequence =
      sequences.get(static_cast<int>(blockIdx.z), row);
  const Look look(args, row, sequence.offset);
  if (look.split >= look.splits) {
    return;
  }
  const int kv_head = look.kv_head;
  const int position = look.position;
  const int end = look.end;

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
  for (int head = warp; head < group; head += kDecodeWarps) {
    prepare_head<T, D>(
        qkv + (kv_head * group + head) * D,
        static_cast<const T*>(args.q_norm),
        args.norm_eps,
        rotation,
        lane,
        queries + head * query_row<D>);
  }
  if (look.appends()) {
    const std::size_t at = static_cast<std::size_t>(position) * D;
    if (warp == kDecodeWarps - 1) {
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

  const Queries<T, D> rows(queries, g, t);
  float out[D / 8][4] = {};
  float greatest[2] = {-INFINITY, -INFINITY};
  float total[2] = {};
  T* const tile = tiles + warp * kDecodeTile * kValueRow;
  const float scale = args.scale * 1.4426950408889634F;

  for (int base = look.begin + warp * kDecodeTile; base < end;
       base += kDecodeWarps * kDecodeTile) {
    // Positions past the end are read as the last one, and their weights are 0.
    for (int i = lane; i < kDecodeTile * (D / 8); i += 32) {
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
        rows.multiply(c, k[c], score[j]);
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
      float* const to = sums + (warp * kPlainHeads + head) * (D + 4);
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
  meet<T, D, kPlainHeads>(args, look, max_splits, sums);
}

template <class T, int D>
void start(
    const Launcher& launcher,
    const DecodeAttentionArgs& args,
    const DecodeSequences& sequences) {
  const auto grid = [&](std::size_t count) {
    return dim3(
        static_cast<unsigned>(sequences.max_splits),
        static_cast<unsigned>(args.num_kv_heads),
        static_cast<unsigned>(count));
  };
  if (const DecodeTable* table = sequences.table) {
    launch(
        launcher,
        attention_name,
        decode_kernel<T, D, Listed>,
        grid(static_cast<std::size_t>(table->count)),
        kDecodeThreads,
        shared_bytes<D>(),
        args,
        Listed{table->sequences, table->offsets},
        0,
        sequences.max_splits);
    return;
  }
  const auto given = sequences.given;
  for (std::size_t first = 0; first < given.size();
       first += kSequencesPerLaunch) {
    Given some{};
    const auto count =
        std::min<std::size_t>(kSequencesPerLaunch, given.size() - first);
    std::copy_n(
        given.begin() + static_cast<std::ptrdiff_t>(first), count, some.at);
    launch(
        launcher,
        attention_name,
        decode_kernel<T, D, Given>,
        grid(count),
        kDecodeThreads,
        shared_bytes<D>(),
        args,
        some,
        static_cast<int>(first),
        sequences.max_splits);
  }
}

} // namespace

void start_plain_decode(
    const Launcher& launcher,
    const DecodeAttentionArgs& args,
    const DecodeSequences& sequences) {
  const auto with_type = [&]<class T>(T) {
    switch (args.head_dim) {
    case 64:
      return start<T, 64>(launcher, args, sequences);
    case 96:
      return start<T, 96>(launcher, args, sequences);
    case 128:
      return start<T, 128>(launcher, args, sequences);
    default:
      return start<T, 256>(launcher, args, sequences);
    }
  };
  return args.type == Float::f16 ? with_type(__half())
                                 : with_type(__nv_bfloat16());
}

} // namespace qwen3_mlx::cuda
