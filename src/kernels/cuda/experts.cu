// SPDX-License-Identifier: MIT
// Which experts a token goes to, and the sum of what they give.
#include <algorithm>

#include "kernels/cuda/device_code.cuh"
#include "kernels/cuda/kernels.h"

namespace qwen3_mlx::cuda {
namespace {

constexpr int kMaxPerLane = 16; // 512 experts

// One warp a row. Ties go to the lower index.
__global__ void __launch_bounds__(32) route_kernel(const RouteArgs args) {
  let_next_start();
  wait_for_previous();
  const int lane = static_cast<int>(threadIdx.x);
  const std::size_t row = blockIdx.x;
  const auto E = static_cast<std::size_t>(args.num_experts);
  const auto k = static_cast<std::size_t>(args.k);
  float values[kMaxPerLane];
  float greatest = -INFINITY;
#pragma unroll
  for (int i = 0; i < kMaxPerLane; ++i) {
    const int expert = i * 32 + lane;
    values[i] = expert < args.num_experts
        ? load_float(
              args.logits,
              args.type,
              row * E + static_cast<std::size_t>(expert))
        : -INFINITY;
    greatest = fmaxf(greatest, values[i]);
  }
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) {
    greatest = fmaxf(greatest, __shfl_xor_sync(0xffffffffU, greatest, offset));
  }
  float total = 0;
#pragma unroll
  for (int i = 0; i < kMaxPerLane; ++i) {
    total += __expf(values[i] - greatest);
  }
  total = warp_sum(total);
  float chosen_total = 0;
  float mine = 0; // lane j keeps the weight of choice j
  for (int j = 0; j < args.k; ++j) {
    float best = -INFINITY;
    int at = 0x7fffffff;
#pragma unroll
    for (int i = 0; i < kMaxPerLane; ++i) {
      if (values[i] > best) {
        best = values[i];
        at = i * 32 + lane;
      }
    }
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) {
      const float other = __shfl_xor_sync(0xffffffffU, best, offset);
      const int other_at = __shfl_xor_sync(0xffffffffU, at, offset);
      if (other > best || (other == best && other_at < at)) {
        best = other;
        at = other_at;
      }
    }
#pragma unroll
    for (int i = 0; i < kMaxPerLane; ++i) {
      if (i * 32 + lane == at) {
        values[i] = -INFINITY;
      }
    }
    const float probability = __expf(best - greatest);
    chosen_total += probability;
    if (lane == j) {
      mine = probability;
      // All NaN: any expert, never one that does not exist.
      args.experts[row * k + static_cast<std::size_t>(j)] =
          static_cast<unsigned>(min(at, args.num_experts - 1));
    }
  }
  if (lane < args.k) {
    args.weights[row * k + static_cast<std::size_t>(lane)] =
        mine / (args.normalize ? chosen_total : total);
  }
}

__global__ void __launch_bounds__(256)
    weighted_sum_kernel(const WeightedSumArgs args) {
  let_next_start();
  wait_for_previous();
  const auto col = blockIdx.x * 256U + threadIdx.x;
  const std::size_t row = blockIdx.y;
  const auto cols = static_cast<std::size_t>(args.cols);
  if (col >= cols) {
    return;
  }
  float sum = load_float(args.residual, args.type, row * cols + col);
  for (int j = 0; j < args.k; ++j) {
    const std::size_t pair =
        row * static_cast<std::size_t>(args.k) + static_cast<std::size_t>(j);
    sum += args.weights[pair] *
        load_float(args.parts, args.type, pair * cols + col);
  }
  store_float(args.out, args.type, row * cols + col, sum);
}

constexpr int kSortThreads = 1024;

struct SortArgs {
  const std::uint32_t* experts;
  int num_pairs;
  int num_experts;
  int tile_rows;
  int* sorted;
  ExpertTile* tiles;
  int* num_tiles;
};

// A block of threads an expert. Each counts the pairs of all experts, and so
// knows where its own rows and tiles begin; each thread looks at a run of
// pairs, and knows from the threads before it where its own of them go.
__global__ void __launch_bounds__(kSortThreads)
    sort_kernel(const SortArgs args) {
  __shared__ int counts[kSortThreads];
  __shared__ int equal_of_warp[32];
  __shared__ int rows_of_warp[32];
  __shared__ int tiles_of_warp[32];
  let_next_start();
  const auto expert = static_cast<int>(blockIdx.x);
  const int tid = static_cast<int>(threadIdx.x);
  counts[tid] = 0;
  __syncthreads();
  wait_for_previous();
  const int each = (args.num_pairs + kSortThreads - 1) / kSortThreads;
  const int begin = min(tid * each, args.num_pairs);
  const int end = min(begin + each, args.num_pairs);
  const auto expert_of = [&](int pair) {
    return static_cast<int>(
        min(args.experts[pair], static_cast<unsigned>(args.num_experts - 1)));
  };
  int equal = 0;
  for (int i = begin; i < end; ++i) {
    const int of = expert_of(i);
    atomicAdd(counts + of, 1);
    equal += of == expert ? 1 : 0;
  }
  int upto = equal; // of the warp's threads up to this one
#pragma unroll
  for (int offset = 1; offset < 32; offset *= 2) {
    const int before = __shfl_up_sync(0xffffffffU, upto, offset);
    upto += tid % 32 >= offset ? before : 0;
  }
  if (tid % 32 == 31) {
    equal_of_warp[tid / 32] = upto;
  }
  __syncthreads();
  const auto tiles_for = [&](int count) {
    return (count + args.tile_rows - 1) / args.tile_rows;
  };
  int rows = tid < expert ? counts[tid] : 0; // of smaller experts
  int tiles = tiles_for(rows);
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) {
    rows += __shfl_xor_sync(0xffffffffU, rows, offset);
    tiles += __shfl_xor_sync(0xffffffffU, tiles, offset);
  }
  if (tid % 32 == 0) {
    rows_of_warp[tid / 32] = rows;
    tiles_of_warp[tid / 32] = tiles;
  }
  __syncthreads();
  int first_row = 0;
  int first_tile = 0;
  int at = upto - equal;
#pragma unroll
  for (int warp = 0; warp < 32; ++warp) {
    first_row += rows_of_warp[warp];
    first_tile += tiles_of_warp[warp];
    at += warp < tid / 32 ? equal_of_warp[warp] : 0;
  }
  at += first_row;
  for (int i = begin; i < end; ++i) {
    if (expert_of(i) == expert) {
      args.sorted[at++] = i;
    }
  }
  const int count = counts[expert];
  const int own_tiles = tiles_for(count);
  for (int i = tid; i < own_tiles; i += kSortThreads) {
    args.tiles[first_tile + i] = {
        static_cast<unsigned>(expert),
        first_row + i * args.tile_rows,
        min(args.tile_rows, count - i * args.tile_rows)};
  }
  if (expert == args.num_experts - 1 && tid == 0) {
    *args.num_tiles = first_tile + own_tiles;
  }
}

struct NormArgs {
  const void* x;
  const void* weight;
  float eps;
  Float type;
  int cols;
  void* out;
};

__global__ void __launch_bounds__(256) norm_kernel(const NormArgs args) {
  __shared__ float squares[8];
  let_next_start();
  wait_for_previous();
  const int tid = static_cast<int>(threadIdx.x);
  const auto cols = static_cast<std::size_t>(args.cols);
  const std::size_t first = blockIdx.x * cols;
  float sum = 0;
  float v[8];
  for (std::size_t i = static_cast<std::size_t>(tid) * 8; i < cols;
       i += 256 * 8) {
    load_eight(args.x, args.type, first + i, v);
#pragma unroll
    for (const float value : v) {
      sum += value * value;
    }
  }
  sum = warp_sum(sum);
  if (tid % 32 == 0) {
    squares[tid / 32] = sum;
  }
  __syncthreads();
  float total = 0;
#pragma unroll
  for (const float of_warp : squares) {
    total += of_warp;
  }
  const float factor = rsqrtf(total / static_cast<float>(args.cols) + args.eps);
  float weight[8];
  for (std::size_t i = static_cast<std::size_t>(tid) * 8; i < cols;
       i += 256 * 8) {
    load_eight(args.x, args.type, first + i, v);
    load_eight(args.weight, args.type, i, weight);
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      store_float(
          args.out,
          args.type,
          first + i + static_cast<std::size_t>(j),
          v[j] * factor * weight[j]);
    }
  }
}

} // namespace

int expert_tile_rows(int num_pairs, int num_experts) {
  const int each = num_pairs / num_experts;
  return each <= 32 ? 32 : each <= 64 ? 64 : 128;
}

int max_expert_tiles(int num_pairs, int num_experts, int tile_rows) {
  return num_pairs / tile_rows + std::min(num_experts, num_pairs);
}

void sort_by_expert(
    const Launcher& launcher,
    const std::uint32_t* experts,
    int num_pairs,
    int num_experts,
    int tile_rows,
    int* sorted,
    ExpertTile* tiles,
    int* num_tiles) {
  if (num_experts > kSortThreads) {
    throw Error("CUDA: more than 1024 experts");
  }
  launch(
      launcher,
      "sort_by_expert",
      sort_kernel,
      dim3(static_cast<unsigned>(num_experts)),
      kSortThreads,
      0,
      SortArgs{
          experts,
          num_pairs,
          num_experts,
          tile_rows,
          sorted,
          tiles,
          num_tiles});
}

void rms_norm(
    const Launcher& launcher,
    const void* x,
    const void* weight,
    float eps,
    Float type,
    int n,
    int cols,
    void* out) {
  launch(
      launcher,
      "rms_norm",
      norm_kernel,
      dim3(static_cast<unsigned>(n)),
      256,
      0,
      NormArgs{x, weight, eps, type, cols, out});
}

void route(const Launcher& launcher, const RouteArgs& args, int n) {
  launch(
      launcher,
      route_name,
      route_kernel,
      dim3(static_cast<unsigned>(n)),
      32,
      0,
      args);
}

void weighted_sum(
    const Launcher& launcher,
    const WeightedSumArgs& args,
    int n) {
  launch(
      launcher,
      weighted_sum_name,
      weighted_sum_kernel,
      dim3(
          static_cast<unsigned>((args.cols + 255) / 256),
          static_cast<unsigned>(n)),
      256,
      0,
      args);
}

} // namespace qwen3_mlx::cuda
