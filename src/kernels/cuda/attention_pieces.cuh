// SPDX-License-Identifier: MIT
// What the kernels of attention share.
#pragma once

#include <type_traits>

#include "kernels/cuda/device_code.cuh"

namespace qwen3_mlx::cuda {

__device__ __forceinline__ float exp2_of(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

__device__ __forceinline__ unsigned pack_two(__nv_bfloat16, float a, float b) {
  return pack_bf16(a, b);
}

__device__ __forceinline__ unsigned pack_two(__half, float a, float b) {
  const __half2 pair = __floats2half2_rn(a, b);
  return *reinterpret_cast<const unsigned*>(&pair);
}

__device__ __forceinline__ float to_float(__nv_bfloat16 x) {
  return __bfloat162float(x);
}

__device__ __forceinline__ float to_float(__half x) {
  return __half2float(x);
}

__device__ __forceinline__ void from_float(float x, __nv_bfloat16& out) {
  out = __float2bfloat16(x);
}

__device__ __forceinline__ void from_float(float x, __half& out) {
  out = __float2half(x);
}

template <class T>
__device__ __forceinline__ void product(
    float (&c)[4],
    unsigned a0,
    unsigned a1,
    unsigned a2,
    unsigned a3,
    unsigned b0,
    unsigned b1) {
  if constexpr (std::is_same_v<T, __half>) {
    multiply_add_half(c, a0, a1, a2, a3, b0, b1);
  } else {
    multiply_add(c, a0, a1, a2, a3, b0, b1);
  }
}

// A head's dimensions d and d + D / 2 are rotated as a pair. A warp's lane has
// the pairs lane, lane + 32...: this many, of which the last may lie beyond the
// head (lane_has()).
template <int D>
inline constexpr int head_pairs = (D + 63) / 64;

template <int D>
__device__ __forceinline__ bool lane_has(int pair, int lane) {
  return D % 64 == 0 || pair * 32 + lane < D / 2;
}

// Sines and cosines of a position, of a lane's pairs.
template <int D>
struct Rotation {
  float sine[head_pairs<D>];
  float cosine[head_pairs<D>];
};

template <int D>
__device__ __forceinline__ Rotation<D>
rotation_of(const float* periods, int position, int lane) {
  Rotation<D> rotation;
#pragma unroll
  for (int j = 0; j < head_pairs<D>; ++j) {
    const float period = lane_has<D>(j, lane) ? periods[j * 32 + lane] : 1.0F;
    const float angle = static_cast<float>(position) * (1.0F / period);
    sincosf(angle, &rotation.sine[j], &rotation.cosine[j]);
  }
  return rotation;
}

// A head of a new position by one warp, to shared or global memory: norm, then
// rotation. `v` holds the first dimensions of a lane's pairs, then their second
// ones; those beyond the head are zeros.
template <class T, int D>
__device__ __forceinline__ void place_head(
    float (&v)[2 * head_pairs<D>],
    const T* norm,
    float eps,
    const Rotation<D>& rotation,
    int lane,
    T* to) {
  constexpr int kPairs = head_pairs<D>;
  if (norm != nullptr) {
    float squares = 0;
#pragma unroll
    for (const float value : v) {
      squares += value * value;
    }
    const float factor = rsqrtf(warp_sum(squares) / D + eps);
#pragma unroll
    for (int j = 0; j < kPairs; ++j) {
      if (lane_has<D>(j, lane)) {
        v[j] *= factor * to_float(norm[j * 32 + lane]);
        v[j + kPairs] *= factor * to_float(norm[D / 2 + j * 32 + lane]);
      }
    }
  }
#pragma unroll
  for (int j = 0; j < kPairs; ++j) {
    if (lane_has<D>(j, lane)) {
      const float a = v[j];
      const float b = v[j + kPairs];
      const float sine = rotation.sine[j];
      const float cosine = rotation.cosine[j];
      from_float(a * cosine - b * sine, to[j * 32 + lane]);
      from_float(b * cosine + a * sine, to[D / 2 + j * 32 + lane]);
    }
  }
}

template <class T, int D>
__device__ __forceinline__ void prepare_head(
    const T* from,
    const T* norm,
    float eps,
    const Rotation<D>& rotation,
    int lane,
    T* to) {
  constexpr int kPairs = head_pairs<D>;
  float v[2 * kPairs];
#pragma unroll
  for (int j = 0; j < kPairs; ++j) {
    const bool has = lane_has<D>(j, lane);
    v[j] = has ? to_float(from[j * 32 + lane]) : 0.0F;
    v[j + kPairs] = has ? to_float(from[D / 2 + j * 32 + lane]) : 0.0F;
  }
  place_head<T, D>(v, norm, eps, rotation, lane, to);
}

} // namespace qwen3_mlx::cuda
