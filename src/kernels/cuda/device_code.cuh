// SPDX-License-Identifier: MIT
// Small pieces that the kernels share.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/packed_layout.h"

namespace qwen3_mlx::cuda {

// Programmatic dependent launch: the next kernel of the stream may start once
// all blocks of this one have said so, and waits itself for this one's end
// before it touches what this one writes. Every kernel waits, so that the order
// of any two of them holds.
__device__ __forceinline__ void let_next_start() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

__device__ __forceinline__ void wait_for_previous() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// 16 bytes of global memory to shared memory, past the first cache and the
// registers.
__device__ __forceinline__ void copy_async(void* to, const void* from) {
  const auto address = static_cast<unsigned>(__cvta_generic_to_shared(to));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(address),
               "l"(from)
               : "memory");
}

__device__ __forceinline__ void commit_copies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}

template <int Pending>
__device__ __forceinline__ void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
}

// The two halves of a register as bfloat16.
__device__ __forceinline__ float low_bf16(unsigned pair) {
  return __uint_as_float(pair << 16);
}

__device__ __forceinline__ float high_bf16(unsigned pair) {
  return __uint_as_float(pair & 0xffff0000U);
}

__device__ __forceinline__ float low_half(unsigned pair) {
  return __half2float(__ushort_as_half(static_cast<unsigned short>(pair)));
}

__device__ __forceinline__ float high_half(unsigned pair) {
  return __half2float(
      __ushort_as_half(static_cast<unsigned short>(pair >> 16)));
}

__device__ __forceinline__ unsigned pack_bf16(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const unsigned*>(&pair);
}

__device__ __forceinline__ float
load_float(const void* data, Float type, std::size_t idx) {
  switch (type) {
  case Float::bf16:
    return __bfloat162float(static_cast<const __nv_bfloat16*>(data)[idx]);
  case Float::f16:
    return __half2float(static_cast<const __half*>(data)[idx]);
  default:
    return static_cast<const float*>(data)[idx];
  }
}

__device__ __forceinline__ void
store_float(void* data, Float type, std::size_t idx, float value) {
  switch (type) {
  case Float::bf16:
    static_cast<__nv_bfloat16*>(data)[idx] = __float2bfloat16(value);
    break;
  case Float::f16:
    static_cast<__half*>(data)[idx] = __float2half(value);
    break;
  default:
    static_cast<float*>(data)[idx] = value;
  }
}

// Eight neighbours at `idx`, a multiple of 8.
__device__ __forceinline__ void
load_eight(const void* data, Float type, std::size_t idx, float (&out)[8]) {
  if (type == Float::f32) {
    const auto* from = static_cast<const float4*>(data) + idx / 4;
    const float4 a = from[0];
    const float4 b = from[1];
    out[0] = a.x, out[1] = a.y, out[2] = a.z, out[3] = a.w;
    out[4] = b.x, out[5] = b.y, out[6] = b.z, out[7] = b.w;
    return;
  }
  const uint4 v = static_cast<const uint4*>(data)[idx / 8];
  const unsigned words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    out[2 * i] = type == Float::bf16 ? low_bf16(words[i]) : low_half(words[i]);
    out[2 * i + 1] =
        type == Float::bf16 ? high_bf16(words[i]) : high_half(words[i]);
  }
}

// c += a b for a 16 x 16 in rows and b 16 x 8 in columns, sums in float32.
__device__ __forceinline__ void multiply_add(
    float (&c)[4],
    unsigned a0,
    unsigned a1,
    unsigned a2,
    unsigned a3,
    unsigned b0,
    unsigned b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

__device__ __forceinline__ void multiply_add_half(
    float (&c)[4],
    unsigned a0,
    unsigned a1,
    unsigned a2,
    unsigned a3,
    unsigned b0,
    unsigned b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
      "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

__device__ __forceinline__ float warp_sum(float value) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) {
    value += __shfl_xor_sync(0xffffffffU, value, offset);
  }
  return value;
}

} // namespace qwen3_mlx::cuda
