// SPDX-License-Identifier: MIT
// A decode step's attention over quantized caches.
//
// Positions are the rows of tensor-core products and the query heads that share
// a key head their columns, so that eight heads fill a product. Codes enter it
// less their center, which is exact; scales and biases are applied to sums:
//   score = sum over groups of scale (q . code) + bias (sum of q),
//   out = sum of (weight scale) code + sum of weight bias.
// A warp reads 16 positions at a time, the next ones while it computes. Which
// dimensions a thread has of a group does not matter to a sum: they are
// neighbours in memory.
#include <algorithm>

#include "kernels/cuda/decode_pieces.cuh"
#include "kernels/cuda/quantized_positions.cuh"

namespace qwen3_mlx::cuda {
namespace {

constexpr int kTile = kDecodeTile;
constexpr int kHeads = kQuantizedHeads;

// Sequences as arguments, or in a table when there is one. Few: a recorded
// launch carries their room too.
constexpr int kGivenSequences = 16;

struct Sequences {
  DecodeSequence given[kGivenSequences];
  Listed listed;

  __device__ __forceinline__ DecodeSequence get(int idx, int row) const {
    return listed.at == nullptr ? given[idx] : listed.get(idx, row);
  }
};

template <int D, int Bits, int Group>
struct Shape {
  static constexpr int kGroups = D / Group;
  static constexpr int kRow = D * Bits / 8; // bytes of a position's codes
  // Of a group, a thread has these of a key and of a value.
  static constexpr int kKeyBytes = Group / 4 * Bits / 8;
  static constexpr int kValueDims = Group / 8;
  static constexpr int kValueBytes = kValueDims * Bits / 8;
  // In shared memory, rows are padded against bank conflicts.
  static constexpr int kKeyRow = kKeyBytes == 32 ? kRow + 16
      : kGroups % 2 == 1                         ? kRow
                                                 : kRow + 4 * kKeyBytes;
  static constexpr int kValueRow = kRow + 16;
  static constexpr int kScales = kTile * kGroups * 2; // bytes of one array
  static constexpr int kValues = kTile * kKeyRow;
  static constexpr int kKeyScales = kValues + kTile * kValueRow;
  static constexpr int kKeyBiases = kKeyScales + kScales;
  static constexpr int kValueScales = kKeyBiases + kScales;
  static constexpr int kValueBiases = kValueScales + kScales;
  static constexpr int kStage = kValueBiases + kScales;
  // Three would not fit into 99 KiB, which many GPUs have.
  static constexpr int kStages = D == 256 && Bits == 8 ? 2 : 3;
  static_assert(kRow % 16 == 0 && kKeyRow % 16 == 0 && kScales % 16 == 0);

  static constexpr int kQueryRow = D + 8;
  // Queries, the new key, then tiles; sums of the warps take their place.
  static constexpr std::size_t kShared = 2UL *
          (kHeads * kQueryRow + kQueryRow) +
      std::max<std::size_t>(1UL * kDecodeWarps * kStages * kStage,
                            sums_bytes<D, kHeads>);
};

// One head of a sequence's cache.
template <class T, int D, int Bits, int Group>
struct Cache {
  using S = Shape<D, Bits, Group>;
  std::uint8_t* keys;
  std::uint8_t* values;
  T* key_scales;
  T* key_biases;
  T* value_scales;
  T* value_biases;

  __device__ __forceinline__ Cache(const DecodeSequence& sequence, int head) {
    const std::size_t first = static_cast<std::size_t>(head) *
        static_cast<std::size_t>(sequence.capacity);
    keys = static_cast<std::uint8_t*>(sequence.keys) + first * S::kRow;
    values = static_cast<std::uint8_t*>(sequence.values) + first * S::kRow;
    key_scales = static_cast<T*>(sequence.key_scales) + first * S::kGroups;
    key_biases = static_cast<T*>(sequence.key_biases) + first * S::kGroups;
    value_scales = static_cast<T*>(sequence.value_scales) + first * S::kGroups;
    value_biases = static_cast<T*>(sequence.value_biases) + first * S::kGroups;
  }

  // Positions [base, base + kTile) to shared memory, by one warp.
  __device__ __forceinline__ void load(int base, int lane, char* to) const {
    constexpr int kPieces = S::kRow / 16;
    const auto first = static_cast<std::size_t>(base);
    const std::uint8_t* const key = keys + first * S::kRow;
    const std::uint8_t* const value = values + first * S::kRow;
#pragma unroll
    for (int i = lane; i < kTile * kPieces; i += 32) {
      const int at = i % kPieces * 16;
      copy_async(to + i / kPieces * S::kKeyRow + at, key + i * 16);
      copy_async(
          to + S::kValues + i / kPieces * S::kValueRow + at, value + i * 16);
    }
    constexpr int kScalePieces = S::kScales / 16;
#pragma unroll
    for (int i = lane; i < 4 * kScalePieces; i += 32) {
      const int which = i / kScalePieces;
      const T* const from = which == 0 ? key_scales
          : which == 1                 ? key_biases
          : which == 2                 ? value_scales
                                       : value_biases;
      copy_async(
          to + S::kKeyScales + i * 16,
          reinterpret_cast<const char*>(from + first * S::kGroups) +
              i % kScalePieces * 16);
    }
  }

  __device__ __forceinline__ void
  append(int position, const T* key, const T* value, int warp, int lane) const {
    const auto at = static_cast<std::size_t>(position);
    if (warp == kDecodeWarps - 1) {
      quantize_head<T, Bits, Group>(
          key,
          D,
          lane,
          keys + at * S::kRow,
          key_scales + at * S::kGroups,
          key_biases + at * S::kGroups);
    } else if (warp == 0) {
      quantize_head<T, Bits, Group>(
          value,
          D,
          lane,
          values + at * S::kRow,
          value_scales + at * S::kGroups,
          value_biases + at * S::kGroups);
    }
  }
};

// Floats [Count] of neighbours in shared memory, zeros unless `valid`.
template <class T, int Count>
__device__ __forceinline__ void
load_scales(const char* from, bool valid, float (&to)[Count]) {
  if constexpr (Count % 2 == 1) {
#pragma unroll
    for (int i = 0; i < Count; ++i) {
      to[i] = valid ? to_float(reinterpret_cast<const T*>(from)[i]) : 0.0F;
    }
  } else {
#pragma unroll
    for (int i = 0; i < Count / 2; ++i) {
      const unsigned pair = reinterpret_cast<const unsigned*>(from)[i];
      to[2 * i] = valid ? low_float(T(), pair) : 0.0F;
      to[2 * i + 1] = valid ? high_float(T(), pair) : 0.0F;
    }
  }
}

template <int Bytes>
__device__ __forceinline__ void
load_words(const char* from, unsigned (&to)[(Bytes + 3) / 4]) {
  if constexpr (Bytes % 16 == 0) {
#pragma unroll
    for (int i = 0; i < Bytes / 16; ++i) {
      const uint4 v = reinterpret_cast<const uint4*>(from)[i];
      to[4 * i] = v.x, to[4 * i + 1] = v.y;
      to[4 * i + 2] = v.z, to[4 * i + 3] = v.w;
    }
  } else if constexpr (Bytes == 8) {
    const uint2 v = *reinterpret_cast<const uint2*>(from);
    to[0] = v.x, to[1] = v.y;
  } else if constexpr (Bytes == 4) {
    to[0] = *reinterpret_cast<const unsigned*>(from);
  } else {
    static_assert(Bytes == 2);
    to[0] = *reinterpret_cast<const unsigned short*>(from);
  }
}

// Rows become columns.
__device__ __forceinline__ unsigned transposed(unsigned pair) {
  unsigned out;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;"
               : "=r"(out)
               : "r"(pair));
  return out;
}

// Over the eight threads that share columns.
__device__ __forceinline__ float sum_of_rows(float value) {
#pragma unroll
  for (int offset = 4; offset < 32; offset *= 2) {
    value += __shfl_xor_sync(0xffffffffU, value, offset);
  }
  return value;
}

__device__ __forceinline__ float greatest_of_rows(float value) {
#pragma unroll
  for (int offset = 4; offset < 32; offset *= 2) {
    value = fmaxf(value, __shfl_xor_sync(0xffffffffU, value, offset));
  }
  return value;
}

// Queries as second operands, and their sums over groups.
template <class T, int D, int Bits, int Group>
struct Queries {
  using S = Shape<D, Bits, Group>;
  unsigned pairs[D / 16][2];
  // Of the heads whose scores a thread has: 2 t and 2 t + 1.
  float sums[S::kGroups][2];

  __device__ __forceinline__ Queries(const T* from, int g, int t) {
    constexpr int kEach = Group / 4; // dimensions of a group a thread has
    constexpr int kProducts = Group / 16;
#pragma unroll
    for (int group = 0; group < S::kGroups; ++group) {
      float sum = 0;
#pragma unroll
      for (int i = 0; i < kEach / 8; ++i) {
        const uint4 q = *reinterpret_cast<const uint4*>(
            from + g * S::kQueryRow + group * Group + t * kEach + i * 8);
        auto* const to = pairs + group * kProducts + i * 2;
        // In the order in which centered() gives the codes of a word.
        if constexpr (Bits == 8) {
          to[0][0] = __byte_perm(q.x, q.y, 0x5410);
          to[0][1] = __byte_perm(q.x, q.y, 0x7632);
          to[1][0] = __byte_perm(q.z, q.w, 0x5410);
          to[1][1] = __byte_perm(q.z, q.w, 0x7632);
        } else {
          to[0][0] = __byte_perm(q.x, q.z, 0x5410);
          to[0][1] = __byte_perm(q.x, q.z, 0x7632);
          to[1][0] = __byte_perm(q.y, q.w, 0x5410);
          to[1][1] = __byte_perm(q.y, q.w, 0x7632);
        }
        sum += low_float(T(), q.x) + high_float(T(), q.x);
        sum += low_float(T(), q.y) + high_float(T(), q.y);
        sum += low_float(T(), q.z) + high_float(T(), q.z);
        sum += low_float(T(), q.w) + high_float(T(), q.w);
      }
      sum += __shfl_xor_sync(0xffffffffU, sum, 1);
      sum += __shfl_xor_sync(0xffffffffU, sum, 2);
      // Head g's is with threads 4 g...
      sums[group][0] = __shfl_sync(0xffffffffU, sum, t * 8);
      sums[group][1] = __shfl_sync(0xffffffffU, sum, t * 8 + 4);
    }
  }
};

// One warp's sums: rows are dimensions, columns heads.
template <class T, int D, int Bits, int Group>
struct WarpSums {
  using S = Shape<D, Bits, Group>;
  static constexpr float kCenter = code_center<Bits>;
  // Keeps weights times scales in float16's range: a scale is less than
  // 2^17 / 2^Bits.
  static constexpr float kLift =
      std::is_same_v<T, __half> ? (Bits == 8 ? 64 : 4) : 1;

  float out[D / 16][4] = {};
  // Of heads 2 t and 2 t + 1; in powers of two.
  float greatest[2] = {-INFINITY, -INFINITY};
  float total[2] = {};
  float biases[S::kGroups][2] = {};

  // Products of positions g and g + 8 with heads 2 t and 2 t + 1.
  __device__ __forceinline__ void scores(
      const Queries<T, D, Bits, Group>& queries,
      const char* tile,
      int g,
      int t,
      float (&score)[4]) const {
#pragma unroll
    for (int group = 0; group < S::kGroups; ++group) {
      constexpr int kWords = S::kKeyBytes / 4;
      const char* const from =
          tile + group * Group * Bits / 8 + t * S::kKeyBytes;
      unsigned low[kWords];
      unsigned high[kWords];
      load_words<S::kKeyBytes>(from + g * S::kKeyRow, low);
      load_words<S::kKeyBytes>(from + (g + 8) * S::kKeyRow, high);
      float dot[4] = {};
#pragma unroll
      for (int i = 0; i < Group / 16; ++i) {
        // A word has codes for one product, or for two.
        const int word = Bits == 8 ? i : i / 2;
        const int shift = Bits == 8 ? 0 : i % 2 * 8;
        const auto& q = queries.pairs[group * (Group / 16) + i];
        product<T>(
            dot,
            centered<Bits>(T(), low[word] >> shift),
            centered<Bits>(T(), high[word] >> shift),
            centered<Bits>(T(), low[word] >> (shift + Bits)),
            centered<Bits>(T(), high[word] >> (shift + Bits)),
            q[0],
            q[1]);
      }
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int at = ((g + half * 8) * S::kGroups + group) * 2;
        const float scale =
            to_float(*reinterpret_cast<const T*>(tile + S::kKeyScales + at));
        const float bias =
            to_float(*reinterpret_cast<const T*>(tile + S::kKeyBiases + at)) +
            kCenter * scale;
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          score[half * 2 + i] +=
              scale * dot[half * 2 + i] + bias * queries.sums[group][i];
        }
      }
    }
  }

  // Scores become weights; sums so far shrink where a greater score has come.
  __device__ __forceinline__ void
  weigh(float scale, const bool (&valid)[2], float (&score)[4]) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      float& a = score[i];
      float& b = score[2 + i];
      a = valid[0] ? a * scale : -INFINITY;
      b = valid[1] ? b * scale : -INFINITY;
      const float best = fmaxf(greatest[i], greatest_of_rows(fmaxf(a, b)));
      const float shrink = exp2_of(greatest[i] - best);
      greatest[i] = best;
      a = exp2_of(a - best);
      b = exp2_of(b - best);
      total[i] = total[i] * shrink + a + b;
#pragma unroll
      for (auto& part : biases) {
        part[i] *= shrink;
      }
#pragma unroll
      for (auto& part : out) {
        part[i] *= shrink;
        part[2 + i] *= shrink;
      }
    }
  }

  __device__ __forceinline__ void add_values(
      const char* tile,
      const float (&weight)[4],
      const bool (&valid)[2],
      int g,
      int t) {
    // Weights times scales of each group, as second operands.
    unsigned scaled[S::kGroups][2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int at = (g + half * 8) * S::kGroups * 2;
      float scales[S::kGroups];
      float with_center[S::kGroups];
      load_scales<T>(tile + S::kValueScales + at, valid[half], scales);
      load_scales<T>(tile + S::kValueBiases + at, valid[half], with_center);
      const float a = weight[half * 2];
      const float b = weight[half * 2 + 1];
#pragma unroll
      for (int group = 0; group < S::kGroups; ++group) {
        const float bias = with_center[group] + kCenter * scales[group];
        biases[group][0] += a * bias;
        biases[group][1] += b * bias;
        const float scale = scales[group] * kLift;
        scaled[group][half] = transposed(pack_two(T(), a * scale, b * scale));
      }
    }
    const char* const values =
        tile + S::kValues + t * 2 * S::kValueRow + g * S::kValueBytes;
#pragma unroll
    for (int group = 0; group < S::kGroups; ++group) {
      constexpr int kWords = (S::kValueBytes + 3) / 4;
      const char* const from = values + group * Group * Bits / 8;
      unsigned words[4][kWords]; // positions 2 t, 2 t + 1, and 8 further on
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        load_words<S::kValueBytes>(
            from + (i / 2 * 8 + i % 2) * S::kValueRow, words[i]);
      }
      // Dimensions 2 i and 2 i + 1 of those the thread has.
#pragma unroll
      for (int i = 0; i < S::kValueDims / 2; ++i) {
        const int byte = Bits == 8 ? 2 * i : i;
        const int word = byte / 4;
        const auto two_at = [&](int first, int at) {
          return __byte_perm(
              words[first][word],
              words[first + 1][word],
              static_cast<unsigned>(at | (at + 4) << 8));
        };
        unsigned early_low = two_at(0, byte % 4);
        unsigned late_low = two_at(2, byte % 4);
        unsigned early_high = early_low >> 4;
        unsigned late_high = late_low >> 4;
        if constexpr (Bits == 8) {
          early_high = two_at(0, byte % 4 + 1);
          late_high = two_at(2, byte % 4 + 1);
        }
        product<T>(
            out[group * (S::kValueDims / 2) + i],
            centered<Bits>(T(), early_low),
            centered<Bits>(T(), early_high),
            centered<Bits>(T(), late_low),
            centered<Bits>(T(), late_high),
            scaled[group][0],
            scaled[group][1]);
      }
    }
  }

  // To sums [kHeads][D + 4] of the warp.
  __device__ __forceinline__ void store(float* sums, int g, int t, int num) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      total[i] = sum_of_rows(total[i]);
#pragma unroll
      for (auto& part : biases) {
        part[i] = sum_of_rows(part[i]);
      }
      const int head = 2 * t + i;
      if (head >= num) {
        continue;
      }
      float* const to = sums + head * (D + 4);
#pragma unroll
      for (int group = 0; group < S::kGroups; ++group) {
#pragma unroll
        for (int n = 0; n < S::kValueDims / 2; ++n) {
          const auto& part = out[group * (S::kValueDims / 2) + n];
          const int d = group * Group + g * S::kValueDims + 2 * n;
          to[d] = part[i] * (1 / kLift) + biases[group][i];
          to[d + 1] = part[2 + i] * (1 / kLift) + biases[group][i];
        }
      }
      if (g == 0) {
        to[D] = greatest[i];
        to[D + 1] = total[i];
      }
    }
  }
};

template <class T, int D, int Bits, int Group>
__global__ void __launch_bounds__(kDecodeThreads) quantized_decode_kernel(
    const DecodeAttentionArgs args,
    const __grid_constant__ Sequences sequences,
    int first_sequence,
    int max_splits) {
  using S = Shape<D, Bits, Group>;
  extern __shared__ __align__(16) char shared[];
  auto* const prepared = reinterpret_cast<T*>(shared);
  auto* const new_key = prepared + kHeads * S::kQueryRow;
  char* const tiles = reinterpret_cast<char*>(new_key + S::kQueryRow);
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
  const Cache<T, D, Bits, Group> cache(sequence, look.kv_head);

  // Tiles begin at multiples of 16, as copies of scales must.
  char* const own_tiles = tiles + warp * S::kStages * S::kStage;
  int base = look.begin / kTile * kTile + warp * kTile;
  int next = base;
  const auto load_next = [&](int stage) {
    if (next < look.end) {
      cache.load(next, lane, own_tiles + stage * S::kStage);
    }
    commit_copies();
    next += kDecodeWarps * kTile;
  };
  const auto load_first = [&] {
#pragma unroll
    for (int stage = 0; stage < S::kStages; ++stage) {
      load_next(stage);
    }
  };
  if (!look.appends()) {
    load_first();
  }

  const int n_heads = args.num_heads;
  const int group = n_heads / args.num_kv_heads;
  const T* const qkv = static_cast<const T*>(args.qkv) +
      static_cast<std::size_t>(row) *
          static_cast<std::size_t>((n_heads + 2 * args.num_kv_heads) * D);
  const auto rotation = rotation_of<D>(args.periods, look.position, lane);
  // Columns beyond the group stay as they are: they know nothing of others.
  for (int head = warp; head < group; head += kDecodeWarps) {
    prepare_head<T, D>(
        qkv + (look.kv_head * group + head) * D,
        static_cast<const T*>(args.q_norm),
        args.norm_eps,
        rotation,
        lane,
        prepared + head * S::kQueryRow);
  }
  if (look.appends()) {
    if (warp == kDecodeWarps - 1) {
      prepare_head<T, D>(
          qkv + (n_heads + look.kv_head) * D,
          static_cast<const T*>(args.k_norm),
          args.norm_eps,
          rotation,
          lane,
          new_key);
      __syncwarp();
    }
    cache.append(
        look.position,
        new_key,
        qkv + (n_heads + args.num_kv_heads + look.kv_head) * D,
        warp,
        lane);
  }
  __syncthreads();
  if (look.appends()) {
    load_first();
  }

  const Queries<T, D, Bits, Group> queries(prepared, g, t);
  WarpSums<T, D, Bits, Group> found;
  const float scale = args.scale * 1.4426950408889634F;
  for (int stage = 0; base < look.end; base += kDecodeWarps * kTile) {
    const char* const tile = own_tiles + stage * S::kStage;
    wait_for_copies<S::kStages - 1>();
    __syncwarp();
    float score[4] = {};
    found.scores(queries, tile, g, t, score);
    const bool valid[2] = {
        base + g >= look.begin && base + g < look.end,
        base + g + 8 >= look.begin && base + g + 8 < look.end};
    found.weigh(scale, valid, score);
    found.add_values(tile, score, valid, g, t);
    __syncwarp();
    load_next(stage);
    stage = stage + 1 < S::kStages ? stage + 1 : 0;
  }
  __syncthreads(); // tiles give way to sums [warp][head][D + 4]
  found.store(sums + warp * kHeads * (D + 4), g, t, group);
  __syncthreads();
  meet<T, D, kHeads>(args, look, max_splits, sums);
}

template <class T, int D, int Bits, int Group>
void start(
    const Launcher& launcher,
    const DecodeAttentionArgs& args,
    const DecodeSequences& sequences) {
  const auto start_some =
      [&](const Sequences& some, std::size_t first, std::size_t count) {
        launch(
            launcher,
            "quantized attention",
            quantized_decode_kernel<T, D, Bits, Group>,
            dim3(
                static_cast<unsigned>(sequences.max_splits),
                static_cast<unsigned>(args.num_kv_heads),
                static_cast<unsigned>(count)),
            kDecodeThreads,
            Shape<D, Bits, Group>::kShared,
            args,
            some,
            static_cast<int>(first),
            sequences.max_splits);
      };
  Sequences some{};
  if (const DecodeTable* table = sequences.table) {
    some.listed = {table->sequences, table->offsets};
    start_some(some, 0, static_cast<std::size_t>(table->count));
    return;
  }
  const auto given = sequences.given;
  for (std::size_t first = 0; first < given.size(); first += kGivenSequences) {
    const auto count =
        std::min<std::size_t>(kGivenSequences, given.size() - first);
    std::copy_n(
        given.begin() + static_cast<std::ptrdiff_t>(first), count, some.given);
    start_some(some, first, count);
  }
}

template <class T, int D, int Bits>
void start_group(
    const Launcher& launcher,
    const DecodeAttentionArgs& args,
    const DecodeSequences& sequences) {
  if constexpr (D % 64 == 0) {
    if (args.kv.group == 64) {
      return start<T, D, Bits, 64>(launcher, args, sequences);
    }
  }
  if constexpr (D % 128 == 0) {
    if (args.kv.group == 128) {
      return start<T, D, Bits, 128>(launcher, args, sequences);
    }
  }
  return start<T, D, Bits, 32>(launcher, args, sequences);
}

template <class T, int D>
void start_form(
    const Launcher& launcher,
    const DecodeAttentionArgs& args,
    const DecodeSequences& sequences) {
  return args.kv.bits == 8 ? start_group<T, D, 8>(launcher, args, sequences)
                           : start_group<T, D, 4>(launcher, args, sequences);
}

} // namespace

void start_quantized_decode(
    const Launcher& launcher,
    const DecodeAttentionArgs& args,
    const DecodeSequences& sequences) {
  const auto with_type = [&]<class T>(T) {
    switch (args.head_dim) {
    case 64:
      return start_form<T, 64>(launcher, args, sequences);
    case 96:
      return start_form<T, 96>(launcher, args, sequences);
    case 128:
      return start_form<T, 128>(launcher, args, sequences);
    default:
      return start_form<T, 256>(launcher, args, sequences);
    }
  };
  return args.type == Float::f16 ? with_type(__half())
                                 : with_type(__nv_bfloat16());
}

} // namespace qwen3_mlx::cuda
