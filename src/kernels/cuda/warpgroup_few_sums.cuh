// SPDX-License-Identifier: MIT
// What becomes of a unit's sums in warpgroup_few_rows.cu: they meet in shared
// memory, of all blocks of a cluster if those share the unit, and are stored
// with what is fused with the product, four outputs a thread.
#pragma once

#include <cstddef>

#include "kernels/cuda/warpgroup_few_plan.cuh"

namespace qwen3_mlx::cuda::few_rows {

#if defined(QWEN3_MLX_HAS_WARPGROUPS)

__device__ __forceinline__ void meet_threads(int count) {
  asm volatile("bar.sync 1, %0;" ::"r"(count) : "memory");
}

// Of all warps of all blocks of the cluster. The barrier counts warps: one
// whose lanes came one after the other would count more than once.
__device__ __forceinline__ void meet_cluster() {
  __syncwarp();
  asm volatile(
      "barrier.cluster.arrive.release.aligned;\n"
      "barrier.cluster.wait.acquire.aligned;" ::
          : "memory");
}

// What lies at `data` in the shared memory of the cluster's block `rank`.
__device__ __forceinline__ unsigned address_in(const void* data, int rank) {
  unsigned address;
  asm("mapa.shared::cluster.u32 %0, %1, %2;"
      : "=r"(address)
      : "r"(shared_address(data)), "r"(rank));
  return address;
}

__device__ __forceinline__ float4 four_in(const float* data, int rank) {
  float4 v;
  asm volatile("ld.shared::cluster.v4.f32 {%0,%1,%2,%3}, [%4];"
               : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
               : "r"(address_in(data, rank))
               : "memory");
  return v;
}

__device__ __forceinline__ float one_in(const float* data, int rank) {
  float v;
  asm volatile("ld.shared::cluster.f32 %0, [%1];"
               : "=f"(v)
               : "r"(address_in(data, rank))
               : "memory");
  return v;
}

// Four neighbouring outputs of one row.
struct Outputs {
  int row;   // of the unit's
  int place; // of the first, in the tile
  int col;
  std::size_t at;
};

template <int N>
class Sums {
  static constexpr int kEights = N / 8;

 public:
  using Squares = float[kSquareUnits][kRowWarps][8];

  __device__ __forceinline__ Sums(
      const GemvArgs& args,
      const Plan& plan,
      float* sums,
      const Squares& squares,
      int threads)
      : args_(args), plan_(plan), sums_(sums), squares_(squares),
        threads_(threads), tid_(static_cast<int>(threadIdx.x)),
        out_cols_(args.gated ? args.layout.rows / 2 : args.layout.rows),
        fours_(plan.tile_blocks * (args.gated ? 1 : 2)) {}

  // `count` units have been stored before this one.
  __device__ __forceinline__ void
  store(const Unit& unit, int count, const float (&acc)[N / 2]) const {
    const bool shared = plan_.splits > 1;
    if (!shared) {
      meet_threads(threads_); // the last unit's have been read
    }
    put(acc);
    const int num_items = unit.num_rows * fours_;
    const int rank = shared ? static_cast<int>(blockIdx.x) % plan_.splits : 0;
    int item = rank * threads_ + tid_;
    Outputs out{};
    float4 residual{};
    if (item < num_items) { // before all have met
      out = outputs_at(unit, item);
      residual = residual_of(out);
    }
    if (shared) {
      meet_cluster();
    } else {
      meet_threads(threads_);
    }
    while (item < num_items) {
      finish(out, residual, count);
      item += plan_.splits * threads_;
      if (item < num_items) {
        out = outputs_at(unit, item);
        residual = residual_of(out);
      }
    }
    if (shared) { // nobody leaves before all have read
      meet_cluster();
    }
  }

 private:
  __device__ __forceinline__ void put(const float (&acc)[N / 2]) const {
    const int lane = tid_ % 32;
    const int warp = tid_ / 32;
    if (warp * 2 >= plan_.tile_blocks) {
      return;
    }
    const int pitch = sums_pitch(plan_.tile_blocks);
    float* const to = sums_ + lane % 4 * 2 * pitch + warp * 16 + lane / 4;
#pragma unroll
    for (int j = 0; j < N / 8; ++j) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        to[(j * 8 + i % 2) * pitch + i / 2 * 8] = acc[j * 4 + i];
      }
    }
  }

  __device__ __forceinline__ Outputs
  outputs_at(const Unit& unit, int item) const {
    Outputs out;
    out.row = item / fours_;
    const int four = item - out.row * fours_;
    if (args_.gated) { // blocks of gates and others in turn
      out.place = four / 2 * 16 + four % 2 * 4;
      out.col = unit.n_tile * plan_.tile_blocks * 4 + four * 4;
    } else {
      out.place = four * 4;
      out.col = unit.n_tile * plan_.tile_blocks * 8 + four * 4;
    }
    int row = unit.first_row + out.row;
    if (plan_.grouped.out_rows != nullptr) {
      row = plan_.grouped.out_rows[row];
    }
    out.at =
        static_cast<std::size_t>(row) * static_cast<std::size_t>(out_cols_) +
        static_cast<std::size_t>(out.col);
    return out;
  }

  __device__ __forceinline__ bool aligned() const {
    return out_cols_ % 4 == 0;
  }

  __device__ __forceinline__ float4 residual_of(const Outputs& out) const {
    float4 v = make_float4(0, 0, 0, 0);
    if (args_.residual == nullptr || out.col >= out_cols_) {
      return v;
    }
    const auto* const from =
        static_cast<const __nv_bfloat16*>(args_.residual) + out.at;
    if (aligned()) {
      const uint2 r = *reinterpret_cast<const uint2*>(from);
      return make_float4(
          low_bf16(r.x), high_bf16(r.x), low_bf16(r.y), high_bf16(r.y));
    }
    const int left = out_cols_ - out.col;
    v.x = __bfloat162float(from[0]);
    v.y = left > 1 ? __bfloat162float(from[1]) : 0.0F;
    v.z = left > 2 ? __bfloat162float(from[2]) : 0.0F;
    v.w = left > 3 ? __bfloat162float(from[3]) : 0.0F;
    return v;
  }

  // Of all blocks of the cluster, in their order.
  __device__ __forceinline__ float4 sum_at(int row, int place) const {
    const float* const from =
        sums_ + row * sums_pitch(plan_.tile_blocks) + place;
    if (plan_.splits == 1) {
      return *reinterpret_cast<const float4*>(from);
    }
    float4 parts[kMaxSplits];
#pragma unroll
    for (int i = 0; i < kMaxSplits; ++i) {
      parts[i] = i < plan_.splits ? four_in(from, i) : make_float4(0, 0, 0, 0);
    }
    float4 sum = parts[0];
#pragma unroll
    for (int i = 1; i < kMaxSplits; ++i) {
      sum.x += parts[i].x;
      sum.y += parts[i].y;
      sum.z += parts[i].z;
      sum.w += parts[i].w;
    }
    return sum;
  }

  __device__ __forceinline__ float factor_of(int row, int count) const {
    if (args_.norm == nullptr) {
      return 1;
    }
    const auto& of_unit =
        squares_[plan_.grouped.tiles != nullptr ? count % kSquareUnits : 0];
    float sum = 0;
    for (int i = 0; i < plan_.splits; ++i) {
#pragma unroll
      for (int warp = 0; warp < kRowWarps; warp += kEights) {
        const float* const from = &of_unit[row / 8 + warp][row % 8];
        sum += plan_.splits == 1 ? *from : one_in(from, i);
      }
    }
    return rsqrtf(sum / static_cast<float>(args_.layout.cols) + args_.norm_eps);
  }

  __device__ __forceinline__ float4 bias_at(int col) const {
    const auto* const bias = static_cast<const __nv_bfloat16*>(args_.bias);
    const auto at = [&](int i) {
      return bias != nullptr && col + i < args_.layout.rows
          ? __bfloat162float(bias[col + i])
          : 0.0F;
    };
    return make_float4(at(0), at(1), at(2), at(3));
  }

  static __device__ __forceinline__ float4
  scaled(float4 v, float factor, float4 bias) {
    return make_float4(
        fmaf(v.x, factor, bias.x),
        fmaf(v.y, factor, bias.y),
        fmaf(v.z, factor, bias.z),
        fmaf(v.w, factor, bias.w));
  }

  static __device__ __forceinline__ float silu(float x) {
    return x / (1.0F + __expf(-x));
  }

  __device__ __forceinline__ void
  finish(const Outputs& out, const float4& residual, int count) const {
    if (out.col >= out_cols_) {
      return;
    }
    const float factor = factor_of(out.row, count);
    float4 v = scaled(sum_at(out.row, out.place), factor, bias_at(out.col));
    if (args_.gated) {
      const float4 up = scaled(
          sum_at(out.row, out.place + 8), factor, bias_at(out_cols_ + out.col));
      v = make_float4(
          silu(v.x) * up.x,
          silu(v.y) * up.y,
          silu(v.z) * up.z,
          silu(v.w) * up.w);
    }
    v.x += residual.x;
    v.y += residual.y;
    v.z += residual.z;
    v.w += residual.w;
    auto* const to = static_cast<__nv_bfloat16*>(args_.y) + out.at;
    if (aligned()) {
      *reinterpret_cast<uint2*>(to) =
          make_uint2(pack_bf16(v.x, v.y), pack_bf16(v.z, v.w));
      return;
    }
    const float values[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (out.col + i < out_cols_) {
        to[i] = __float2bfloat16(values[i]);
      }
    }
  }

  const GemvArgs& args_;
  const Plan& plan_;
  float* sums_;
  const Squares& squares_;
  int threads_;
  int tid_;
  int out_cols_;
  int fours_;
};

#endif

} // namespace qwen3_mlx::cuda::few_rows
