// SPDX-License-Identifier: MIT
// Operands of tensor cores out of the codes of a block (packed_layout.h).
#pragma once

#include "kernels/cuda/device_code.cuh"

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
