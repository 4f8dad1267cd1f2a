// SPDX-License-Identifier: MIT
// Operands of tensor cores out of the codes of a block (packed_layout.h).
#pragma once

#include "kernels/cuda/device_code.cuh"
#include "kernels/cuda/packed_layout.h"

namespace qwen3_mlx::cuda {

// Two operands from the nibbles i and i + 4: 1024 + q in float16, 128 + q in
// bfloat16.
template <bool Half>
__device__ __forceinline__ unsigned nibbles(unsigned word, int i) {
  unsigned pair; // (word >> 4 i & mask) | offset, as one operation
  asm("lop3.b32 %0, %1, %2, %3, 0xea;"
      : "=r"(pair)
      : "r"(word >> (4 * i)),
        "r"(0x000f000fU),
        "r"(Half ? 0x64006400U : 0x43004300U));
  return pair;
}

// Two operands from bytes 2 i and 2 i + 1: 1024 + q in float16, q in bfloat16.
template <bool Half>
__device__ __forceinline__ unsigned bytes(unsigned word, int i) {
  if constexpr (Half) {
    return __byte_perm(word, 0x64646464U, i == 0 ? 0x4140 : 0x4342);
  }
  const float a = __uint_as_float(__byte_perm(
                      word, 0x4b000000U, i == 0 ? 0x7540 : 0x7542)) -
      8388608.0F;
  const float b = __uint_as_float(__byte_perm(
                      word, 0x4b000000U, i == 0 ? 0x7541 : 0x7543)) -
      8388608.0F;
  return __byte_perm(__float_as_uint(a), __float_as_uint(b), 0x7632);
}

template <bool Half>
__device__ __forceinline__ unsigned two_products(unsigned a, unsigned b) {
  unsigned out;
  if constexpr (Half) {
    asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(out) : "r"(a), "r"(b));
  } else { // a product alone needs compute capability 9.0
    asm("fma.rn.bf16x2 %0, %1, %2, %3;"
        : "=r"(out)
        : "r"(a), "r"(b), "r"(0x80008000U));
  }
  return out;
}

// Small floats become operands when their bits are put in place, as exponents
// near the least; the rest is a factor. Everything here is exact.
//
// Two operands from e4m3 in bytes 2 i and 2 i + 1: the numbers times
// 1 / e4m3_lift.
template <bool Half>
inline constexpr float e4m3_lift = Half ? 256.0F : 1.0F;

template <bool Half>
__device__ __forceinline__ unsigned e4m3_pair(unsigned word, int i) {
  const unsigned codes = __byte_perm(word, 0U, i == 0 ? 0x4140 : 0x4342);
  constexpr int kShift = Half ? 7 : 4;
  const unsigned pair =
      (codes & 0x007f007fU) << kShift | (codes & 0x00800080U) << 8;
  // In bfloat16 sums would be too small: times 2^120.
  return Half ? pair : two_products<false>(pair, 0x7b807b80U);
}

// Two operands from e2m1 in nibbles i and i + 4: the numbers times their scale,
// as e2m1_factor() gives it, times 1 / e2m1_lift.
template <bool Half>
inline constexpr float e2m1_lift = Half ? 128.0F : 256.0F;

template <bool Half>
__device__ __forceinline__ unsigned e2m1_factor(float scale) {
  // Bits in place are the numbers times 2^-14 or 2^-126.
  if constexpr (Half) {
    const __half2 pair = __float2half2_rn(scale * 0x1p7F);
    return *reinterpret_cast<const unsigned*>(&pair);
  }
  return pack_bf16(scale * 0x1p118F, scale * 0x1p118F);
}

template <bool Half>
__device__ __forceinline__ unsigned
e2m1_pair(unsigned word, int i, unsigned factor) {
  const unsigned codes = word >> (4 * i);
  constexpr int kShift = Half ? 9 : 6;
  const unsigned pair =
      (codes & 0x00070007U) << kShift | (codes & 0x00080008U) << 12;
  return two_products<Half>(pair, factor);
}

__device__ __forceinline__ unsigned word_of(const uint4& v, int i) {
  return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w;
}

// What a thread holds of a block, and the operands of one quarter of it.
template <int Bits, bool Half>
struct Codes {
  uint4 words[Bits / 4];

  __device__ __forceinline__ Codes(const char* block, int lane) {
#pragma unroll
    for (int i = 0; i < Bits / 4; ++i) {
      words[i] = reinterpret_cast<const uint4*>(block)[i * 32 + lane];
    }
  }

  __device__ __forceinline__ void
  operands(int quarter, unsigned (&pairs)[4]) const {
    if constexpr (Bits == 4) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        pairs[i] = nibbles<Half>(word_of(words[0], quarter), i);
      }
    } else if constexpr (Bits == 8) {
      const unsigned low = word_of(words[quarter / 2], quarter % 2 * 2);
      const unsigned high = word_of(words[quarter / 2], quarter % 2 * 2 + 1);
      pairs[0] = bytes<Half>(low, 0);
      pairs[1] = bytes<Half>(low, 1);
      pairs[2] = bytes<Half>(high, 0);
      pairs[3] = bytes<Half>(high, 1);
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        pairs[i] = word_of(words[quarter], i);
      }
    }
  }
};

// The same of small floats, whose operands are numbers times 1 / kLift, less a
// scale of the quarter with e4m3.
template <CodeForm Form, bool Half>
struct SmallFloats {
  static constexpr int kBits = Form == CodeForm::e4m3 ? 8 : 4;
  static constexpr float kLift =
      Form == CodeForm::e4m3 ? e4m3_lift<Half> : e2m1_lift<Half>;
  Codes<kBits, Half> codes;
  const char* scales; // of the half that the thread's columns lie in

  __device__ __forceinline__ SmallFloats(const char* block, int lane)
      : codes(block, lane), scales(
                                block + kBlockRows * kBlockCols / 8 * kBits +
                                lane / 4 * 4 + lane % 4 / 2 * 2) {}

  __device__ __forceinline__ void
  operands(int quarter, unsigned (&pairs)[4]) const {
    if constexpr (Form == CodeForm::e4m3) {
      const uint4& words = codes.words[quarter / 2];
      const unsigned low = word_of(words, quarter % 2 * 2);
      const unsigned high = word_of(words, quarter % 2 * 2 + 1);
      pairs[0] = e4m3_pair<Half>(low, 0);
      pairs[1] = e4m3_pair<Half>(low, 1);
      pairs[2] = e4m3_pair<Half>(high, 0);
      pairs[3] = e4m3_pair<Half>(high, 1);
    } else {
      const unsigned factor = e2m1_factor<Half>(low_bf16(
          *reinterpret_cast<const unsigned short*>(scales + quarter * 32)));
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        pairs[i] = e2m1_pair<Half>(word_of(codes.words[0], quarter), i, factor);
      }
    }
  }
};

// The operands of one quarter alone, of codes of 8 bits or elements.
template <int Bits, bool Half>
__device__ __forceinline__ void quarter_operands(
    const char* block,
    int lane,
    int quarter,
    unsigned (&pairs)[4]) {
  if constexpr (Bits == 8) {
    const uint2 words = *reinterpret_cast<const uint2*>(
        block + quarter / 2 * 512 + lane * 16 + quarter % 2 * 8);
    pairs[0] = bytes<Half>(words.x, 0);
    pairs[1] = bytes<Half>(words.x, 1);
    pairs[2] = bytes<Half>(words.y, 0);
    pairs[3] = bytes<Half>(words.y, 1);
  } else {
    const uint4 words =
        *reinterpret_cast<const uint4*>(block + quarter * 512 + lane * 16);
    pairs[0] = words.x;
    pairs[1] = words.y;
    pairs[2] = words.z;
    pairs[3] = words.w;
  }
}

} // namespace qwen3_mlx::cuda
