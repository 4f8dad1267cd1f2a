// SPDX-License-Identifier: MIT
// The matrix is the first operand: codes become 64 rows of it in the registers
// of four warps, so each is unpacked once, however many rows x has, and tiles
// of x can be as small as eight rows. A block of threads has two such groups of
// warps, on 128 rows of the matrix, and a ninth warp that copies weights and
// arranged rows through a ring in shared memory, before the kernel ahead has
// ended as far as they are weights.
//
// The columns of all tiles form one run that is cut into equal parts, one for
// each block of threads: a tile that is cut is summed by the last of its
// blocks to arrive, in their order.
#include "kernels/cuda/warpgroup_gemm.h"

#include <algorithm>
#include <type_traits>

#include "kernels/cuda/device_code.cuh"
#include "kernels/cuda/warpgroup_copies.cuh"
#include "kernels/cuda/warpgroup_map.h"
#include "kernels/cuda/warpgroup_plan.cuh"
#include "kernels/cuda/warpgroup_steps.cuh"
#include "kernels/cuda/warpgroup_sums.cuh"

namespace qwen3_mlx::cuda {
namespace {

using namespace warpgroup;

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
__device__ int warpgroup_code = 1;
#else
__device__ int warpgroup_code = 0;
#endif

template <int Bits, int Group, int N>
__global__ void __launch_bounds__(kThreads, blocks_per_sm(N))
    warpgroup_kernel(const GemvArgs args, const __grid_constant__ Plan plan) {
#if defined(QWEN3_MLX_HAS_WARPGROUPS)
  constexpr int kBytes = RowBlocks<Bits, Group>::kBytes;
  extern __shared__ __align__(128) char shared[];
  __shared__ std::uint64_t full[kMaxStages];
  __shared__ std::uint64_t empty[kMaxStages];
  __shared__ unsigned arrived;
  const int tid = static_cast<int>(threadIdx.x);
  const int warp = tid / 32;
  const int lane = tid % 32;
  if (tid == 0) {
    for (int i = 0; i < plan.stages; ++i) {
      init_barrier(full + i, 1);
      init_barrier(empty + i, kComputeWarps);
    }
    publish_barriers();
  }
  __syncthreads();
  const int x_bytes = plan.form.block_bytes();
  const int stage_bytes = x_bytes + kTileBlocks * kBytes;
  if (warp == kComputeWarps) {
    if (lane == 0) {
      copy_all<kBytes>(args, plan, shared, full, empty);
    }
    return;
  }
  let_next_start();
  wait_for_previous();
  const Run run(plan);
  const int col_blocks = plan.form.col_blocks;
  float* const scratch =
      reinterpret_cast<float*>(shared + plan.stages * stage_bytes) +
      warp * (kStoreRows * kStoreStride);
  constexpr bool kExact = Group != 0 && N <= kMaxExactRows;
  std::conditional_t<
      kExact,
      ExactSteps<Bits, Group, N>,
      RoundedSteps<Bits, Group, N>>
      steps;
  Stages stages{shared, stage_bytes, plan.stages, full, empty};
  const int blocks_at = x_bytes + warp * 2 * kBytes;
  float acc[N / 2] = {};
  int tile_idx = run.begin / col_blocks;
  int k = run.begin - tile_idx * col_blocks;
  if (run.begin < run.end) {
    steps.begin(stages, blocks_at, lane);
  }
  for (int at = run.begin; at < run.end; ++at) {
    steps.run(stages, blocks_at, lane, at + 1 < run.end, acc);
    if (++k == col_blocks || at + 1 == run.end) {
      if (collect<N>(plan, run, tile_idx, acc, &arrived)) {
        store_tile<N>(
            args,
            plan,
            tile_at(args, plan, tile_idx),
            acc,
            scratch,
            warp,
            lane);
      }
#pragma unroll
      for (float& sum : acc) {
        sum = 0;
      }
      k = 0;
      ++tile_idx;
    }
  }
#endif
}

int n_tiles_of(const GemvArgs& args) {
  return (args.layout.row_blocks() + kTileBlocks - 1) / kTileBlocks;
}

struct Cut {
  int blocks_at_once; // of threads
  int stages;
  std::size_t shared_bytes;
};

Cut cut_of(
    const Launcher& launcher,
    const PackedLayout& layout,
    const ArrangedForm& form) {
  const int stage_bytes =
      form.block_bytes() + kTileBlocks * layout.block_bytes();
  constexpr int kReserve = 2048; // barriers, and what each block costs
  const int per_sm = blocks_per_sm(form.tile_rows);
  const int each =
      (launcher.shared_bytes + 1024) / per_sm - kReserve - kStoreBytes;
  const int stages = std::min(kMaxStages, each / stage_bytes);
  return {
      launcher.num_sms * per_sm,
      stages,
      static_cast<std::size_t>(stages * stage_bytes + kStoreBytes)};
}

template <int Bits, int Group, int N>
void start(
    const Launcher& launcher,
    const GemvArgs& args,
    const Plan& plan,
    int blocks,
    std::size_t shared_bytes) {
  launch(
      launcher,
      gemv_name,
      warpgroup_kernel<Bits, Group, N>,
      dim3(static_cast<unsigned>(blocks)),
      kThreads,
      shared_bytes,
      args,
      plan);
}

template <int Bits, int Group>
void start_rows(
    const Launcher& launcher,
    const GemvArgs& args,
    const Plan& plan,
    int blocks,
    std::size_t bytes) {
  switch (plan.form.tile_rows) {
  case 8:
    return start<Bits, Group, 8>(launcher, args, plan, blocks, bytes);
  case 16:
    return start<Bits, Group, 16>(launcher, args, plan, blocks, bytes);
  case 32:
    return start<Bits, Group, 32>(launcher, args, plan, blocks, bytes);
  case 64:
    return start<Bits, Group, 64>(launcher, args, plan, blocks, bytes);
  default:
    return start<Bits, Group, 128>(launcher, args, plan, blocks, bytes);
  }
}

template <int Bits>
void start_group(
    const Launcher& launcher,
    const GemvArgs& args,
    const Plan& plan,
    int blocks,
    std::size_t bytes) {
  switch (args.layout.group) {
  case 32:
    return start_rows<Bits, 32>(launcher, args, plan, blocks, bytes);
  case 128:
    return start_rows<Bits, 128>(launcher, args, plan, blocks, bytes);
  default:
    return start_rows<Bits, 64>(launcher, args, plan, blocks, bytes);
  }
}

} // namespace

bool has_warpgroup_code() {
  int value = 0;
  if (cudaMemcpyFromSymbol(&value, warpgroup_code, sizeof value) !=
      cudaSuccess) {
    cudaGetLastError();
    return false;
  }
  return value != 0;
}

bool supports_warpgroup_gemm(
    const Launcher& launcher,
    const PackedLayout& layout,
    Float type) {
  return launcher.has_warpgroups && type == Float::bf16 &&
      layout.type == Float::bf16 && !layout.has_small_floats();
}

ArrangedForm arranged_form(const PackedLayout& layout, int num_rows) {
  int tile_rows = 8;
  while (tile_rows < num_rows && tile_rows < kMaxTileRows) {
    tile_rows *= 2;
  }
  return {
      tile_rows,
      !layout.is_plain() && tile_rows <= kMaxExactRows,
      layout.col_blocks()};
}

int expert_rows(int num_pairs, int num_experts) {
  // A second tile of an expert costs little beside reading its matrix; 64 rows
  // have half the warps at work that 32 have.
  const int each = num_pairs / num_experts;
  return each <= 4 ? 8 : each <= 10 ? 16 : each <= 40 ? 32 : kMaxTileRows;
}

int min_grouped_pairs(const Launcher& launcher, int num_experts) {
  return launcher.has_warpgroups ? num_experts : 2 * num_experts + 1;
}

GemmNeeds warpgroup_gemm_needs(
    const Launcher& launcher,
    const GemvArgs& args,
    const ArrangedForm& form,
    int num_tiles) {
  const Cut cut = cut_of(launcher, args.layout, form);
  return {
      static_cast<std::size_t>(cut.blocks_at_once) * 2 *
          static_cast<std::size_t>(form.tile_rows) * kTileN,
      static_cast<std::size_t>(num_tiles) *
          static_cast<std::size_t>(n_tiles_of(args))};
}

void warpgroup_gemm(
    const Launcher& launcher,
    const GemvArgs& args,
    const ArrangedForm& form,
    const void* arranged,
    const GroupedRows& grouped,
    float* workspace,
    unsigned* counters) {
  const Cut cut = cut_of(launcher, args.layout, form);
  Plan plan{
      map_of(args, kTileBlocks),
      form,
      static_cast<const char*>(arranged),
      (args.num_rows + form.tile_rows - 1) / form.tile_rows,
      n_tiles_of(args),
      cut.stages,
      false,
      workspace,
      counters,
      grouped};
  int blocks = cut.blocks_at_once;
  if (grouped.tiles == nullptr) {
    const int tiles = plan.m_tiles * plan.n_tiles;
    blocks = useful_blocks(tiles, form.col_blocks, blocks);
    const int waves = (tiles + blocks - 1) / blocks;
    plan.whole = form.tile_rows >= 128 && waves * blocks * 3 <= tiles * 4;
  }
  switch (args.layout.bits) {
  case 4:
    return start_group<4>(launcher, args, plan, blocks, cut.shared_bytes);
  case 8:
    return start_group<8>(launcher, args, plan, blocks, cut.shared_bytes);
  default:
    return start_rows<16, 0>(launcher, args, plan, blocks, cut.shared_bytes);
  }
}

} // namespace qwen3_mlx::cuda
