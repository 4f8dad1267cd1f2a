// SPDX-License-Identifier: MIT
// What the products of persistent_step.cu read, as operands of tensor cores in
// shared memory.
#pragma once

#include "kernels/cuda/persistent_fetcher.cuh"
#include "kernels/cuda/persistent_words.cuh"

namespace qwen3_mlx::cuda::persistent {

// Operands are whole numbers of 16 bits, with a scale for each group of columns
// that weights have a scale for: eight bits, signed, in one column of the
// second operand of tensor cores, and the lower eight in the next one. So codes
// need not become floats, and all sums of products are exact. For weights that
// are elements it is two bfloat16, in two columns as well.
struct OperandGroup {
  float scale;
  float sum; // of the elements
};

#if defined(QWEN3_MLX_HAS_WARPGROUPS)

// A product's own part of shared memory, all of it free between phases.
struct ProductRoom {
  uint4* x; // eight columns: high digits, low digits; or so many bfloat16 each
  OperandGroup* groups;
  float* partial; // [kStepWarps][slots][kPairRows]

  __device__ __forceinline__
  ProductRoom(char* room, int x_bytes, int num_groups) {
    x = reinterpret_cast<uint4*>(room);
    groups = reinterpret_cast<OperandGroup*>(room + x_bytes);
    partial = reinterpret_cast<float*>(groups + num_groups);
  }

  // What lies behind the sums of such a product.
  __device__ __forceinline__ float* behind(const StepShape& shape) const {
    return partial + kStepWarps * shape.slots * kPairRows;
  }
};

__device__ __forceinline__ void spread(uint4 words, float (&v)[8]) {
  v[0] = low_bf16(words.x), v[1] = high_bf16(words.x);
  v[2] = low_bf16(words.y), v[3] = high_bf16(words.y);
  v[4] = low_bf16(words.z), v[5] = high_bf16(words.z);
  v[6] = low_bf16(words.w), v[7] = high_bf16(words.w);
}

constexpr float kMostOperand = 32512; // whose high digit is 127
// Added to a whole number below 2^22, it leaves it in the lowest bits.
constexpr float kWhole = 12582912;
constexpr unsigned kWholeBits = 0x4b400000U;

// Of the eight columns of a thread, the one whose digit is byte `i` of operand
// word `idx`: in the order in which codes are.
template <int Bits>
__device__ constexpr int operand_column(int idx, int i) {
  return Bits == 4 ? idx * 2 + i % 2 * 4 + i / 2 : idx * 4 + i;
}

// Puts eight operands as pairs of bfloat16 into shared memory.
__device__ __forceinline__ void put_pairs(
    const ProductRoom& room,
    int chunk,
    bool exists,
    const float (&v)[8]) {
  unsigned high[4];
  unsigned low[4];
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const float a = v[2 * j];
    const float b = v[2 * j + 1];
    high[j] = pack_bf16(a, b);
    low[j] = pack_bf16(a - low_bf16(high[j]), b - high_bf16(high[j]));
  }
  if (exists) {
    room.x[chunk * 2] = make_uint4(high[0], high[1], high[2], high[3]);
    room.x[chunk * 2 + 1] = make_uint4(low[0], low[1], low[2], low[3]);
  }
}

// The same as digits, and beside them what the group has in common.
template <int Bits, int Group>
__device__ __forceinline__ void put_digits(
    const ProductRoom& room,
    int chunk,
    bool exists,
    const float (&v)[8]) {
  float most = 0;
  float sum = 0;
#pragma unroll
  for (const float value : v) {
    most = fmaxf(most, fabsf(value));
    sum += value;
  }
#pragma unroll
  for (int offset = 1; offset < Group / 8; offset *= 2) {
    most = fmaxf(most, __shfl_xor_sync(0xffffffffU, most, offset));
    sum += __shfl_xor_sync(0xffffffffU, sum, offset);
  }
  // What is smaller than that is nothing, and has no reciprocal.
  const float factor = most > 1e-30F ? __fdividef(kMostOperand, most) : 0;
  unsigned low[8];
  unsigned high[8]; // in the second byte, rounded
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    low[j] = __float_as_uint(fmaf(v[j], factor, kWhole));
    high[j] = low[j] + 128;
  }
  const auto word = [](const unsigned(&from)[8], int idx, unsigned two) {
    const auto byte_of = [&](int i) {
      return from[operand_column<Bits>(idx, i)];
    };
    return __byte_perm(
        __byte_perm(byte_of(0), byte_of(1), two),
        __byte_perm(byte_of(2), byte_of(3), two),
        0x5410);
  };
  if (exists) {
    room.x[chunk] = make_uint4(
        word(high, 0, 0x51),
        word(high, 1, 0x51),
        word(low, 0, 0x40),
        word(low, 1, 0x40));
    if (chunk % (Group / 8) == 0) {
      room.groups[chunk / (Group / 8)] = {most / kMostOperand, sum};
    }
  }
}

template <int Bits, int Group>
__device__ __forceinline__ void put_operands(
    const ProductRoom& room,
    int chunk,
    bool exists,
    const float (&v)[8]) {
  if constexpr (Bits == 16) {
    put_pairs(room, chunk, exists, v);
  } else {
    put_digits<Bits, Group>(room, chunk, exists, v);
  }
}

// Eight operands as the numbers they are.
template <int Bits>
__device__ __forceinline__ void
get_operands(uint4 words, float scale, float (&v)[8]) {
#pragma unroll
  for (int idx = 0; idx < 2; ++idx) {
    const auto high = static_cast<int>(idx == 0 ? words.x : words.y);
    const auto low = static_cast<int>(idx == 0 ? words.z : words.w);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const auto digit = [&](int word) { return word << (24 - 8 * i) >> 24; };
      v[operand_column<Bits>(idx, i)] =
          scale * static_cast<float>(digit(high) * 256 + digit(low));
    }
  }
}

// What a product without a norm reads, as operands: two elements a word. Those
// of experts are multiplied with their shares.
template <int Bits, int Group, bool HasExperts>
__device__ __forceinline__ void read_elements(
    const StepPhase& phase,
    const OwnShape& own,
    [[maybe_unused]] const Chosen& chosen,
    unsigned flag,
    const ProductRoom& room) {
  constexpr int kAtOnce = 3; // chunks of eight a thread
  const int tid = static_cast<int>(threadIdx.x);
  const int chunks = own.shape.cols / 8;
  const int padded = (chunks + 31) / 32 * 32;
#pragma unroll 1
  for (int first = tid; first < padded; first += kAtOnce * kThreads) {
    ulonglong2 words[kAtOnce][2];
    read_until<is_of>(flag, [&] {
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) {
        const int chunk = first + j * kThreads;
        if (chunk < chunks) {
          words[j][0] = get_words(phase.in + chunk * 4);
          words[j][1] = get_words(phase.in + chunk * 4 + 2);
        }
      }
      const FlaggedWord* missing = nullptr;
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) {
        const int chunk = first + j * kThreads;
        if (chunk < chunks) {
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            if (!both_are_of(words[j][i], flag)) {
              missing = phase.in + chunk * 4 + i * 2 +
                  (is_of(words[j][i].x, flag) ? 1 : 0);
            }
          }
        }
      }
      return missing;
    });
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) {
      const int chunk = first + j * kThreads;
      if (chunk < padded) {
        float v[8] = {};
        if (chunk < chunks) {
          spread(
              make_uint4(
                  data_of(words[j][0].x),
                  data_of(words[j][0].y),
                  data_of(words[j][1].x),
                  data_of(words[j][1].y)),
              v);
          if constexpr (HasExperts) {
            if (own.shape.is_chosen()) {
              const float share =
                  chosen.shares[chunk / (own.run_blocks * (kBlockCols / 8))];
#pragma unroll
              for (float& value : v) {
                value *= share;
              }
            }
          }
        }
        put_operands<Bits, Group>(room, chunk, chunk < chunks, v);
      }
    }
  }
  __syncthreads();
}

// Adds the parts `first` and, if it exists, the next one to eight elements.
__device__ __forceinline__ void add_two_parts(
    const StepPhase& phase,
    int first,
    int chunk,
    bool exists,
    unsigned flag,
    float (&v)[8]) {
  const FlaggedWord* const from =
      phase.in + (first * phase.part_length + chunk * 8) / 2;
  const bool has[2] = {exists, exists && first + 1 < phase.num_parts};
  ulonglong2 words[2][2] = {};
  read_until<part_is_of>(flag, [&] {
#pragma unroll
    for (int part = 0; part < 2; ++part) {
      if (has[part]) {
        words[part][0] = get_words(from + part * phase.part_length / 2);
        words[part][1] = get_words(from + part * phase.part_length / 2 + 2);
      }
    }
    const FlaggedWord* missing = nullptr;
#pragma unroll
    for (int part = 0; part < 2; ++part) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const ulonglong2 both = words[part][i];
        if (has[part] &&
            !(part_is_of(both.x, flag) && part_is_of(both.y, flag))) {
          missing = from + part * phase.part_length / 2 + i * 2 +
              (part_is_of(both.x, flag) ? 1 : 0);
        }
      }
    }
    return missing;
  });
#pragma unroll
  for (int part = 0; part < 2; ++part) { // what does not exist is zero
    add_part(words[part][0].x, v[0], v[1]);
    add_part(words[part][0].y, v[2], v[3]);
    add_part(words[part][1].x, v[4], v[5]);
    add_part(words[part][1].y, v[6], v[7]);
  }
}

// The residual stream, brought up to date and normed, as operands.
template <int Bits, int Group>
__device__ __forceinline__ void read_stream(
    const StepPhase& phase,
    int cols,
    unsigned flag,
    float* stream,
    float* squares_of, // [kStepWarps]
    const ProductRoom& room) {
  const int tid = static_cast<int>(threadIdx.x);
  const int chunks = cols / 8;
  const int padded = (chunks + 31) / 32 * 32;
  const auto* const norm = static_cast<const uint4*>(phase.norm);
  uint4 norm_words = tid < chunks ? norm[tid] : make_uint4(0, 0, 0, 0);
  float squares = 0;
#pragma unroll 1
  for (int chunk = tid; chunk < padded; chunk += kThreads) {
    const bool exists = chunk < chunks;
    float v[8] = {};
    auto* const own = reinterpret_cast<float4*>(stream + chunk * 8);
    if (exists) {
      if (phase.embedding != nullptr) {
        spread(static_cast<const uint4*>(phase.embedding)[chunk], v);
      } else {
        const float4 a = own[0];
        const float4 b = own[1];
        v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w;
        v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
      }
    }
#pragma unroll 1
    for (int part = 0; part < phase.num_parts; part += 2) {
      add_two_parts(phase, part, chunk, exists, flag, v);
    }
    if (exists) {
      own[0] = make_float4(v[0], v[1], v[2], v[3]);
      own[1] = make_float4(v[4], v[5], v[6], v[7]);
#pragma unroll
      for (const float value : v) {
        squares += value * value;
      }
    }
  }
  squares = warp_sum(squares);
  if (tid % 32 == 0) {
    squares_of[tid / 32] = squares;
  }
  __syncthreads();
  float sum = 0;
#pragma unroll
  for (int w = 0; w < kStepWarps; ++w) {
    sum += squares_of[w];
  }
  const float factor = rsqrtf(sum / static_cast<float>(cols) + phase.norm_eps);
#pragma unroll 1
  for (int chunk = tid; chunk < padded; chunk += kThreads) {
    float v[8] = {};
    if (chunk < chunks) {
      if (chunk != tid) {
        norm_words = norm[chunk];
      }
      spread(norm_words, v);
      const auto* const own =
          reinterpret_cast<const float4*>(stream + chunk * 8);
      const float4 a = own[0];
      const float4 b = own[1];
      v[0] *= factor * a.x, v[1] *= factor * a.y;
      v[2] *= factor * a.z, v[3] *= factor * a.w;
      v[4] *= factor * b.x, v[5] *= factor * b.y;
      v[6] *= factor * b.z, v[7] *= factor * b.w;
    }
    put_operands<Bits, Group>(room, chunk, chunk < chunks, v);
  }
  __syncthreads();
}

#endif

} // namespace qwen3_mlx::cuda::persistent
