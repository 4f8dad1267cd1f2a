// SPDX-License-Identifier: MIT
// Positions of a quantized cache, one head of them: made from elements, and
// read as operands of tensor cores.
#pragma once

#include <cstdint>

#include "kernels/cuda/attention_pieces.cuh"

namespace qwen3_mlx::cuda {

// What codes are centered by, so that products with them cancel little.
template <int Bits>
inline constexpr int code_center = 1 << (Bits - 1);

// A group by one warp: codes, scale and bias as mx::quantize (mode affine)
// makes them. `code` is of the lane's Group / 32 neighbours.
template <int Bits, int Group>
struct QuantizedGroup {
  static constexpr int kEach = Group / 32;
  unsigned code[kEach];
  float scale;
  float bias;

  template <class T>
  __device__ __forceinline__ QuantizedGroup(const T* from, int lane) {
    float value[kEach];
    float least = INFINITY;
    float greatest = -INFINITY;
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      value[i] = to_float(from[lane * kEach + i]);
      least = fminf(least, value[i]);
      greatest = fmaxf(greatest, value[i]);
    }
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) {
      least = fminf(least, __shfl_xor_sync(0xffffffffU, least, offset));
      greatest =
          fmaxf(greatest, __shfl_xor_sync(0xffffffffU, greatest, offset));
    }
    constexpr float kBins = (1 << Bits) - 1;
    const bool from_least = fabsf(least) > fabsf(greatest);
    scale = fmaxf((greatest - least) / kBins, 1e-7F);
    scale = from_least ? scale : -scale;
    bias = 0;
    const float edge = from_least ? least : greatest;
    const float at_edge = rintf(edge / scale);
    if (at_edge != 0) {
      scale = edge / at_edge;
      bias = edge;
    }
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const float rounded = rintf((value[i] - bias) / scale);
      code[i] = static_cast<unsigned>(fminf(fmaxf(rounded, 0.0F), kBins));
    }
  }

  // Lays the codes down; all lanes of the warp call it.
  __device__ __forceinline__ void store(std::uint8_t* codes, int lane) const {
    if constexpr (Bits == 8) {
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
        codes[lane * kEach + i] = static_cast<std::uint8_t>(code[i]);
      }
    } else if constexpr (kEach == 1) {
      const unsigned next = __shfl_down_sync(0xffffffffU, code[0], 1);
      if (lane % 2 == 0) {
        codes[lane / 2] = static_cast<std::uint8_t>(code[0] | next << 4);
      }
    } else {
#pragma unroll
      for (int i = 0; i < kEach; i += 2) {
        codes[(lane * kEach + i) / 2] =
            static_cast<std::uint8_t>(code[i] | code[i + 1] << 4);
      }
    }
  }
};

// One head of a position by one warp.
template <class T, int Bits, int Group>
__device__ __forceinline__ void quantize_head(
    const T* from,
    int head_dim,
    int lane,
    std::uint8_t* codes,
    T* scales,
    T* biases) {
  for (int first = 0; first < head_dim; first += Group) {
    const QuantizedGroup<Bits, Group> group(from + first, lane);
    group.store(codes + first * Bits / 8, lane);
    if (lane == 0) {
      from_float(group.scale, scales[first / Group]);
      from_float(group.bias, biases[first / Group]);
    }
  }
}

__device__ __forceinline__ float low_float(__nv_bfloat16, unsigned pair) {
  return low_bf16(pair);
}
__device__ __forceinline__ float high_float(__nv_bfloat16, unsigned pair) {
  return high_bf16(pair);
}
__device__ __forceinline__ float low_float(__half, unsigned pair) {
  return low_half(pair);
}
__device__ __forceinline__ float high_float(__half, unsigned pair) {
  return high_half(pair);
}

// The lowest Bits of both halves of a word, less the center: exact.
template <int Bits>
__device__ __forceinline__ unsigned centered(__half, unsigned word) {
  constexpr unsigned kMask = Bits == 8 ? 0x00ff00ffU : 0x000f000fU;
  constexpr unsigned kCenter = Bits == 8 ? 0x64806480U : 0x64086408U;
  unsigned pair; // 1024 + code
  asm("lop3.b32 %0, %1, %2, %3, 0xea;"
      : "=r"(pair)
      : "r"(word), "r"(kMask), "r"(0x64006400U));
  asm("sub.f16x2 %0, %0, %1;" : "+r"(pair) : "r"(kCenter));
  return pair;
}

template <int Bits>
__device__ __forceinline__ unsigned centered(__nv_bfloat16, unsigned word) {
  // Numbers from 128 to 255 have 7 bits behind their first: the eighth bit of a
  // code is in what is taken off, 256 or 128.
  constexpr unsigned kMask = Bits == 8 ? 0x007f007fU : 0x000f000fU;
  unsigned pair; // 128 + code
  asm("lop3.b32 %0, %1, %2, %3, 0xea;"
      : "=r"(pair)
      : "r"(word), "r"(kMask), "r"(0x43004300U));
  unsigned center = 0xc308c308U;
  if constexpr (Bits == 8) {
    asm("lop3.b32 %0, %1, %2, %3, 0x6a;" // (word & bit) ^ -256
        : "=r"(center)
        : "r"(word), "r"(0x00800080U), "r"(0xc380c380U));
  }
  asm("fma.rn.bf16x2 %0, %0, %1, %2;"
      : "+r"(pair)
      : "r"(0x3f803f80U), "r"(center));
  return pair;
}

} // namespace qwen3_mlx::cuda
