// SPDX-License-Identifier: MIT
// Pieces of the kernel of gemm.cu: arithmetic of both types, copies, and
// what becomes of finished sums.
#pragma once

#include "kernels/cuda/block_codes.cuh"
#include "kernels/cuda/device_code.cuh"
#include "kernels/cuda/gemm_plan.h"

namespace qwen3_mlx::cuda {

inline constexpr int kGemmWarps = 8;
inline constexpr int kGemmThreads = kGemmWarps * 32;
inline constexpr int kChunks = kBlockCols / 8; // of 16 bytes in a row of x

// As many as fit.
template <int Bits, int TileM>
inline constexpr int stages_of = Bits == 8 || (Bits == 16 && TileM == 128) ? 3
                                                                           : 4;

__device__ __forceinline__ int part_of_run(int total, int idx, int count) {
  return static_cast<int>(
      static_cast<unsigned long long>(total) * static_cast<unsigned>(idx) /
      static_cast<unsigned>(count));
}

template <class T>
struct Arithmetic;

template <>
struct Arithmetic<__nv_bfloat16> {
  static constexpr bool half = false;
  using Pair = __nv_bfloat162;
  static __device__ __forceinline__ Pair twice(float value) {
    return __float2bfloat162_rn(value);
  }
  static __device__ __forceinline__ void product(
      float (&c)[4],
      const uint4& low,
      const uint4& high,
      const unsigned (&b)[4]) {
    multiply_add(c, low.x, high.x, low.y, high.y, b[0], b[1]);
    multiply_add(c, low.z, high.z, low.w, high.w, b[2], b[3]);
  }
};

template <>
struct Arithmetic<__half> {
  static constexpr bool half = true;
  using Pair = __half2;
  static __device__ __forceinline__ Pair twice(float value) {
    return __float2half2_rn(value);
  }
  static __device__ __forceinline__ void product(
      float (&c)[4],
      const uint4& low,
      const uint4& high,
      const unsigned (&b)[4]) {
    multiply_add_half(c, low.x, high.x, low.y, high.y, b[0], b[1]);
    multiply_add_half(c, low.z, high.z, low.w, high.w, b[2], b[3]);
  }
};

// A copy of 16 bytes, or of zeros.
__device__ __forceinline__ void
copy_or_zero(void* to, const void* from, bool has) {
  const auto address = static_cast<unsigned>(__cvta_generic_to_shared(to));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address),
               "l"(from),
               "r"(has ? 16 : 0)
               : "memory");
}

// Where a tile lies.
struct Tile {
  int n_tile;
  int first_row; // of x, or of the sorted rows
  int num_rows;
  unsigned expert;
};

// Finished sums of a warp: rows of x from `first_row` of the tile on, and 32
// rows of the matrix.
template <int Tiles>
__device__ __forceinline__ void store_sums(
    const GemvArgs& args,
    const GroupedRows& grouped,
    const Tile& tile,
    int first_row,
    int warp_n,
    const float (&acc)[Tiles][4][4]) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int g = lane / 4;
  const int t = lane % 4;
  const int out_cols = args.gated ? args.layout.rows / 2 : args.layout.rows;
#pragma unroll
  for (int m = 0; m < Tiles; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = first_row + m * 16 + half * 8 + g;
      if (row >= tile.num_rows) {
        continue;
      }
      int out_row = tile.first_row + row;
      if (grouped.tiles != nullptr && grouped.out_rows != nullptr) {
        out_row = grouped.out_rows[out_row];
      }
      const std::size_t row_at = static_cast<std::size_t>(out_row) *
          static_cast<std::size_t>(out_cols);
#pragma unroll
      for (int n = 0; n < 4; ++n) {
        if (args.gated && n >= 2) {
          continue;
        }
        const int in_tile = args.gated ? warp_n * 2 + n : warp_n * 4 + n;
        const int blocks_a_tile = args.gated ? kTileBlocks / 2 : kTileBlocks;
        const int first_col =
            (tile.n_tile * blocks_a_tile + in_tile) * kBlockRows + t * 2;
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const int col = first_col + i;
          if (col >= out_cols) {
            continue;
          }
          float value = acc[m][n][half * 2 + i];
          if (args.bias != nullptr) {
            value +=
                load_float(args.bias, args.type, static_cast<std::size_t>(col));
          }
          if (args.gated) {
            float up = acc[m][n < 2 ? n + 2 : n][half * 2 + i];
            if (args.bias != nullptr) {
              up += load_float(
                  args.bias,
                  args.type,
                  static_cast<std::size_t>(out_cols + col));
            }
            value = value / (1.0F + __expf(-value)) * up;
          }
          const std::size_t at = row_at + static_cast<std::size_t>(col);
          if (args.residual != nullptr) {
            value += load_float(args.residual, args.type, at);
          }
          store_float(args.y, args.type, at, value);
        }
      }
    }
  }
}

} // namespace qwen3_mlx::cuda
