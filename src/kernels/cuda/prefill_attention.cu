// SPDX-License-Identifier: MIT
// Attention of many new positions, in two kernels: norm, rotation and append;
// then the look at the cache (FlashAttention-2, arXiv 2307.08691).
//
// Blocks of the second are (tile of queries, key head, sequence). A tile is 128
// pairs of a position and one of the query heads that share the key head, in
// the order in which a row holds them, so a key is read once for all these
// heads and tiles of short prompts are full. A warp has 32 of its rows. Keys
// come in tiles of 64 from position 0 on, however the prompt was cut: so every
// sum has one order. Values arrive while scores are computed, keys while values
// are added.
#include <algorithm>

#include "kernels/cuda/attention_pieces.cuh"
#include "kernels/cuda/prefill_attention.h"

namespace qwen3_mlx::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = kWarps * 32;
constexpr int kKeys = 64;
constexpr int kSequencesPerLaunch = 64;

struct Sequences {
  PrefillSequence at[kSequencesPerLaunch];
};

// A tile of queries. Half as many fill registers and shared memory where heads
// have 256 dimensions.
template <int D>
struct Tile {
  static constexpr int kWarpTiles = D > 128 ? 1 : 2; // of 16 rows
  static constexpr int kWarpRows = kWarpTiles * 16;
  static constexpr int kRows = kWarps * kWarpRows;
};

// Elements between rows in shared memory, padded against bank conflicts.
template <int D>
inline constexpr int shared_row = D + 8;

template <int D>
constexpr std::size_t shared_bytes() {
  return 2UL * (Tile<D>::kRows + 2 * kKeys) * shared_row<D>;
}
// What any GPU for which this is compiled has.
static_assert(shared_bytes<256>() <= 99UL * 1024);

// Calls `with` with a head's dimensions, one of is_supported_head().
template <class With>
auto with_head_dim(int head_dim, const With& with) {
  switch (head_dim) {
  case 64:
    return with(std::integral_constant<int, 64>());
  case 96:
    return with(std::integral_constant<int, 96>());
  case 128:
    return with(std::integral_constant<int, 128>());
  default:
    return with(std::integral_constant<int, 256>());
  }
}

__device__ __forceinline__ std::size_t at(int row, int row_size) {
  return static_cast<std::size_t>(row) * static_cast<std::size_t>(row_size);
}

template <class T, int D>
__global__ void __launch_bounds__(kThreads) append_kernel(
    const PrefillAttentionArgs args,
    const __grid_constant__ Sequences sequences) {
  let_next_start();
  wait_for_previous();
  const PrefillSequence& sequence = sequences.at[blockIdx.y];
  const int idx = static_cast<int>(blockIdx.x);
  if (idx >= sequence.length) {
    return;
  }
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int n_heads = args.num_heads;
  const int n_kv_heads = args.num_kv_heads;
  const int row = sequence.first_row + idx;
  const int position = sequence.offset + idx;
  const T* const qkv =
      static_cast<const T*>(args.qkv) + at(row, (n_heads + 2 * n_kv_heads) * D);
  T* const queries = static_cast<T*>(args.queries) + at(row, n_heads * D);
  const auto rotation = rotation_of<D>(args.periods, position, lane);
  for (int head = warp; head < n_heads; head += kWarps) {
    prepare_head<T, D>(
        qkv + head * D,
        static_cast<const T*>(args.q_norm),
        args.norm_eps,
        rotation,
        lane,
        queries + head * D);
  }
  for (int head = warp; head < n_kv_heads; head += kWarps) {
    const std::size_t place =
        (at(head, sequence.capacity) + static_cast<std::size_t>(position)) * D;
    prepare_head<T, D>(
        qkv + (n_heads + head) * D,
        static_cast<const T*>(args.k_norm),
        args.norm_eps,
        rotation,
        lane,
        static_cast<T*>(sequence.keys) + place);
    const T* const value = qkv + (n_heads + n_kv_heads + head) * D;
    for (int d = lane * 2; d < D; d += 64) {
      *reinterpret_cast<unsigned*>(
          static_cast<T*>(sequence.values) + place + d) =
          *reinterpret_cast<const unsigned*>(value + d);
    }
  }
}

// Four 8 x 8 matrices; a lane gives the address of one of their rows.
__device__ __forceinline__ uint4 load_matrices(const void* from) {
  const auto address = static_cast<unsigned>(__cvta_generic_to_shared(from));
  uint4 v;
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "r"(address)
               : "memory");
  return v;
}

__device__ __forceinline__ uint4 load_transposed(const void* from) {
  const auto address = static_cast<unsigned>(__cvta_generic_to_shared(from));
  uint4 v;
  asm volatile(
      "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
      : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
      : "r"(address)
      : "memory");
  return v;
}

// Positions [base, base + kKeys) of a cache to shared memory; those past the
// end are read as the last one.
template <class T, int D>
__device__ __forceinline__ void
load_positions(const T* from, int base, int length, T* to) {
  constexpr int kPieces = D / 8;
#pragma unroll
  for (int i = static_cast<int>(threadIdx.x); i < kKeys * kPieces;
       i += kThreads) {
    const int position = min(base + i / kPieces, length - 1);
    copy_async(
        to + i / kPieces * shared_row<D> + i % kPieces * 8,
        from + at(position, D) + i % kPieces * 8);
  }
  commit_copies();
}

// One warp's rows.
template <class T, int D>
struct WarpRows {
  static constexpr int kWarpTiles = Tile<D>::kWarpTiles;
  float out[kWarpTiles][D / 8][4] = {};
  // Of rows g and g + 8 of each tile of 16; in powers of two.
  float greatest[kWarpTiles][2];
  float total[kWarpTiles][2] = {};
  int position[kWarpTiles][2];
  float scores[kWarpTiles][kKeys / 8][4];

  __device__ __forceinline__ void
  multiply_keys(const T* queries, const T* keys, int lane) {
#pragma unroll
    for (auto& tile : scores) {
#pragma unroll
      for (auto& part : tile) {
        part[0] = part[1] = part[2] = part[3] = 0;
      }
    }
#pragma unroll
    for (int d = 0; d < D; d += 16) {
      uint4 q[kWarpTiles];
#pragma unroll
      for (int m = 0; m < kWarpTiles; ++m) {
        q[m] = load_matrices(
            queries + (m * 16 + lane % 16) * shared_row<D> + d + lane / 16 * 8);
      }
#pragma unroll
      for (int n = 0; n < kKeys / 16; ++n) {
        const uint4 k = load_matrices(
            keys + (n * 16 + lane / 16 * 8 + lane % 8) * shared_row<D> + d +
            lane / 8 % 2 * 8);
#pragma unroll
        for (int m = 0; m < kWarpTiles; ++m) {
          product<T>(
              scores[m][2 * n], q[m].x, q[m].y, q[m].z, q[m].w, k.x, k.y);
          product<T>(
              scores[m][2 * n + 1], q[m].x, q[m].y, q[m].z, q[m].w, k.z, k.w);
        }
      }
    }
  }

  // Hides keys that a row may not see.
  __device__ __forceinline__ void mask(int base, int window, int t) {
#pragma unroll
    for (int m = 0; m < kWarpTiles; ++m) {
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int key = base + n * 8 + t * 2 + i % 2;
          const int seen_from = position[m][i / 2];
          if (key > seen_from || (window > 0 && key + window <= seen_from)) {
            scores[m][n][i] = -INFINITY;
          }
        }
      }
    }
  }

  // Scores become weights.
  __device__ __forceinline__ void weigh(float scale) {
#pragma unroll
    for (int m = 0; m < kWarpTiles; ++m) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float best = -INFINITY;
#pragma unroll
        for (const auto& part : scores[m]) {
          best = fmaxf(best, fmaxf(part[half * 2], part[half * 2 + 1]));
        }
        best = fmaxf(best, __shfl_xor_sync(0xffffffffU, best, 1));
        best = fmaxf(best, __shfl_xor_sync(0xffffffffU, best, 2));
        best = fmaxf(greatest[m][half], best * scale);
        // A row that has seen nothing yet.
        const float base = best == -INFINITY ? 0.0F : best;
        const float shrink = exp2_of(greatest[m][half] - base);
        greatest[m][half] = best;
        float sum = 0;
#pragma unroll
        for (auto& part : scores[m]) {
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            float& s = part[half * 2 + i];
            s = exp2_of(fmaf(s, scale, -base));
            sum += s;
          }
        }
        total[m][half] = total[m][half] * shrink + sum;
#pragma unroll
        for (auto& part : out[m]) {
          part[half * 2] *= shrink;
          part[half * 2 + 1] *= shrink;
        }
      }
    }
  }

  __device__ __forceinline__ void add_values(const T* values, int lane) {
#pragma unroll
    for (int n = 0; n < kKeys / 16; ++n) {
      uint4 p[kWarpTiles];
#pragma unroll
      for (int m = 0; m < kWarpTiles; ++m) {
        const auto& low = scores[m][2 * n];
        const auto& high = scores[m][2 * n + 1];
        p[m] = make_uint4(
            pack_two(T(), low[0], low[1]),
            pack_two(T(), low[2], low[3]),
            pack_two(T(), high[0], high[1]),
            pack_two(T(), high[2], high[3]));
      }
#pragma unroll
      for (int d = 0; d < D / 16; ++d) {
        const uint4 v = load_transposed(
            values + (n * 16 + lane / 8 % 2 * 8 + lane % 8) * shared_row<D> +
            d * 16 + lane / 16 * 8);
#pragma unroll
        for (int m = 0; m < kWarpTiles; ++m) {
          product<T>(out[m][2 * d], p[m].x, p[m].y, p[m].z, p[m].w, v.x, v.y);
          product<T>(
              out[m][2 * d + 1], p[m].x, p[m].y, p[m].z, p[m].w, v.z, v.w);
        }
      }
    }
  }

  // To shared memory, as rows.
  __device__ __forceinline__ void store(T* to, int g, int t) {
#pragma unroll
    for (int m = 0; m < kWarpTiles; ++m) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float sum = total[m][half];
        sum += __shfl_xor_sync(0xffffffffU, sum, 1);
        sum += __shfl_xor_sync(0xffffffffU, sum, 2);
        const float factor = 1.0F / sum;
        T* const row = to + (m * 16 + half * 8 + g) * shared_row<D> + t * 2;
#pragma unroll
        for (int n = 0; n < D / 8; ++n) {
          *reinterpret_cast<unsigned*>(row + n * 8) = pack_two(
              T(),
              out[m][n][half * 2] * factor,
              out[m][n][half * 2 + 1] * factor);
        }
      }
    }
  }
};

template <class T, int D>
__global__ void __launch_bounds__(kThreads, 2) flash_kernel(
    const PrefillAttentionArgs args,
    const __grid_constant__ Sequences sequences) {
  constexpr int kPieces = D / 8;
  constexpr int kWarpRows = Tile<D>::kWarpRows;
  constexpr int kRows = Tile<D>::kRows;
  extern __shared__ __align__(16) char shared[];
  auto* const queries = reinterpret_cast<T*>(shared);
  auto* const key_tile = queries + kRows * shared_row<D>;
  auto* const value_tile = key_tile + kKeys * shared_row<D>;

  let_next_start();
  wait_for_previous();
  const PrefillSequence& sequence = sequences.at[blockIdx.z];
  const int tid = static_cast<int>(threadIdx.x);
  const int warp = tid / 32;
  const int lane = tid % 32;
  const int g = lane / 4;
  const int t = lane % 4;
  const int kv_head = static_cast<int>(blockIdx.y);
  const int group = args.num_heads / args.num_kv_heads;
  const int num_rows = sequence.length * group;
  // The last queries see the most keys: theirs are the first blocks.
  const int first = static_cast<int>(gridDim.x - 1 - blockIdx.x) * kRows;
  if (first >= num_rows) {
    return;
  }
  const int first_position = sequence.offset + first / group;
  const int last_position =
      sequence.offset + min(first + kRows, num_rows - 1) / group;
  const int length = sequence.offset + sequence.length;
  const int oldest =
      args.window > 0 ? max(0, first_position + 1 - args.window) : 0;
  const std::size_t head_offset = at(kv_head, sequence.capacity) * D;
  const T* const keys = static_cast<const T*>(sequence.keys) + head_offset;
  const T* const values = static_cast<const T*>(sequence.values) + head_offset;

  // Where the queries and the output of a row of the tile lie.
  const auto place = [&](int row) {
    const int idx = min(first + row, num_rows - 1);
    return at(sequence.first_row + idx / group, args.num_heads * D) +
        static_cast<std::size_t>((kv_head * group + idx % group) * D);
  };
  for (int i = tid; i < kRows * kPieces; i += kThreads) {
    copy_async(
        queries + i / kPieces * shared_row<D> + i % kPieces * 8,
        static_cast<const T*>(args.queries) + place(i / kPieces) +
            i % kPieces * 8);
  }
  int base = oldest / kKeys * kKeys;
  load_positions<T, D>(keys, base, length, key_tile);

  WarpRows<T, D> rows;
#pragma unroll
  for (int m = 0; m < Tile<D>::kWarpTiles; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      rows.greatest[m][half] = -INFINITY;
      const int row = warp * kWarpRows + m * 16 + half * 8 + g;
      rows.position[m][half] =
          sequence.offset + min(first + row, num_rows - 1) / group;
    }
  }
  T* const own_queries = queries + warp * kWarpRows * shared_row<D>;
  const float scale = args.scale * 1.4426950408889634F;
  for (; base <= last_position; base += kKeys) {
    wait_for_copies<0>();
    __syncthreads(); // keys are there, and the values before have been used
    load_positions<T, D>(values, base, length, value_tile);
    rows.multiply_keys(own_queries, key_tile, lane);
    __syncthreads();
    const bool goes_on = base + kKeys <= last_position;
    if (goes_on) {
      load_positions<T, D>(keys, base + kKeys, length, key_tile);
    }
    if (base + kKeys - 1 > first_position ||
        (args.window > 0 && base + args.window <= last_position)) {
      rows.mask(base, args.window, t);
    }
    rows.weigh(scale);
    if (goes_on) {
      wait_for_copies<1>();
    } else {
      wait_for_copies<0>();
    }
    __syncthreads();
    rows.add_values(value_tile, lane);
  }

  // A warp's queries are nobody else's.
  __syncwarp();
  rows.store(own_queries, g, t);
  __syncwarp();
  for (int i = lane; i < kWarpRows * kPieces; i += 32) {
    const int row = warp * kWarpRows + i / kPieces;
    if (first + row < num_rows) {
      *reinterpret_cast<uint4*>(
          static_cast<T*>(args.out) + place(row) + i % kPieces * 8) =
          *reinterpret_cast<const uint4*>(
              own_queries + i / kPieces * shared_row<D> + i % kPieces * 8);
    }
  }
}

// Calls `work` with some sequences at a time, their number, and the greatest
// length of one of them.
template <class Work>
void in_launches(std::span<const PrefillSequence> sequences, const Work& work) {
  while (!sequences.empty()) {
    const auto count =
        std::min<std::size_t>(kSequencesPerLaunch, sequences.size());
    Sequences some{};
    std::copy_n(sequences.begin(), count, some.at);
    sequences = sequences.subspan(count);
    int longest = 0;
    for (std::size_t idx = 0; idx < count; ++idx) {
      longest = std::max(longest, some.at[idx].length);
    }
    work(some, static_cast<unsigned>(count), longest);
  }
}

template <class T, int D>
void start_append(
    const Launcher& launcher,
    const PrefillAttentionArgs& args,
    std::span<const PrefillSequence> sequences) {
  in_launches(
      sequences, [&](const Sequences& some, unsigned count, int longest) {
        launch(
            launcher,
            "append",
            append_kernel<T, D>,
            dim3(static_cast<unsigned>(longest), count),
            kThreads,
            0,
            args,
            some);
      });
}

template <class T, int D>
void start_flash(
    const Launcher& launcher,
    const PrefillAttentionArgs& args,
    std::span<const PrefillSequence> sequences) {
  constexpr int kRows = Tile<D>::kRows;
  const int group = args.num_heads / args.num_kv_heads;
  in_launches(
      sequences, [&](const Sequences& some, unsigned count, int longest) {
        launch(
            launcher,
            "prefill",
            flash_kernel<T, D>,
            dim3(
                static_cast<unsigned>((longest * group + kRows - 1) / kRows),
                static_cast<unsigned>(args.num_kv_heads),
                count),
            kThreads,
            shared_bytes<D>(),
            args,
            some);
      });
}

} // namespace

bool supports_prefill(
    const Launcher& launcher,
    Float type,
    int num_heads,
    int num_kv_heads,
    int head_dim) {
  const auto needed = with_head_dim(
      head_dim,
      []<int D>(std::integral_constant<int, D>) { return shared_bytes<D>(); });
  return type != Float::f32 && is_supported_head(head_dim) &&
      num_kv_heads > 0 && num_heads % num_kv_heads == 0 &&
      static_cast<std::size_t>(launcher.shared_bytes) >= needed;
}

void append_positions(
    const Launcher& launcher,
    const PrefillAttentionArgs& args,
    std::span<const PrefillSequence> sequences) {
  const auto with_type = [&]<class T>(T) {
    with_head_dim(args.head_dim, [&]<int D>(std::integral_constant<int, D>) {
      start_append<T, D>(launcher, args, sequences);
    });
  };
  return args.type == Float::f16 ? with_type(__half())
                                 : with_type(__nv_bfloat16());
}

void attend_positions(
    const Launcher& launcher,
    const PrefillAttentionArgs& args,
    std::span<const PrefillSequence> sequences) {
  const auto with_type = [&]<class T>(T) {
    with_head_dim(args.head_dim, [&]<int D>(std::integral_constant<int, D>) {
      start_flash<T, D>(launcher, args, sequences);
    });
  };
  return args.type == Float::f16 ? with_type(__half())
                                 : with_type(__nv_bfloat16());
}

void prefill_attention(
    const Launcher& launcher,
    const PrefillAttentionArgs& args,
    std::span<const PrefillSequence> sequences) {
  append_positions(launcher, args, sequences);
  attend_positions(launcher, args, sequences);
}

} // namespace qwen3_mlx::cuda
