// SPDX-License-Identifier: MIT
// y = x W^T for few rows of x. As in warpgroup_gemm.cu codes of the matrix are
// unpacked once, into the first operand of products of four warps. What is
// different: tiles of the matrix are as tall as makes an equal share for each
// multiprocessor, up to 192 rows, so x is read less often; x is arranged, and
// its rows' squares are added up for the norm, by warps of the same kernel; and
// where the columns of a tile are shared, it is by blocks of threads of one
// cluster, which read each other's sums.
//
// A block of threads has eight warps that bring weights, the first before the
// kernel ahead has ended, and x, which they arrange, and twelve or fewer that
// multiply. Stages of a ring in shared memory are full when both have come.
#include "kernels/cuda/warpgroup_few_rows.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <type_traits>

#include "kernels/cuda/warpgroup_few_feeder.cuh"
#include "kernels/cuda/warpgroup_few_plan.cuh"
#include "kernels/cuda/warpgroup_few_sums.cuh"
#include "kernels/cuda/warpgroup_gemm.h"
#include "kernels/cuda/warpgroup_map.h"

namespace qwen3_mlx::cuda {
namespace few_rows {
namespace {

template <int Bits, int Group, int N>
__global__ void __launch_bounds__(kMaxThreads, 1)
    few_rows_kernel(const GemvArgs args, const __grid_constant__ Plan plan) {
#if defined(QWEN3_MLX_HAS_WARPGROUPS)
  using namespace warpgroup;
  constexpr int kBytes = RowBlocks<Bits, Group>::kBytes;
  constexpr int kRowBytes = row_bytes<Group, N>;
  extern __shared__ __align__(128) char shared[];
  __shared__ std::uint64_t full[kMaxStages];
  __shared__ std::uint64_t empty[kMaxStages];
  __shared__ std::uint64_t raw[kMaxStages];
  __shared__ float squares[kSquareUnits][kRowWarps][8];
  const int tid = static_cast<int>(threadIdx.x);
  const int warp = tid / 32;
  const int lane = tid % 32;
  const int multiplying = static_cast<int>(blockDim.x) / 32 - kRowWarps;
  if (tid == 0) {
    for (int i = 0; i < plan.stages; ++i) {
      init_barrier(full + i, 1 + N / 8);
      init_barrier(empty + i, static_cast<unsigned>(multiplying));
      init_barrier(raw + i, 32 * (N / 8));
    }
    publish_barriers();
  }
  for (int i = tid; i < kSquareUnits * kRowWarps * 8;
       i += static_cast<int>(blockDim.x)) {
    (&squares[0][0][0])[i] = 0;
  }
  __syncthreads();
  let_next_start();
  const int stage_bytes = kRowBytes + plan.tile_blocks * kBytes;
  const Barriers barriers{full, empty, raw};
  if (warp >= multiplying) {
    Feeder<Group, N, kBytes> feeder(
        args, plan, shared, stage_bytes, barriers, warp - multiplying, lane);
    feeder.begin();
    wait_for_previous();
    feeder.run(squares);
    if (plan.splits > 1) { // as Sums::store() does
      meet_cluster();
      meet_cluster();
    }
    return;
  }
  wait_for_previous();
  const Share share(args, plan);
  const int units = num_units(plan);
  std::conditional_t<
      Group != 0,
      ExactSteps<Bits, Group, N, N == 8 ? 2 : 1>,
      RoundedSteps<Bits, Group, N>>
      steps;
  Stages stages{shared, stage_bytes, plan.stages, full, empty};
  // Warps beyond the tile multiply what others do, for nobody.
  const int blocks_at =
      kRowBytes + min(warp * 2, plan.tile_blocks - 2) * kBytes;
  const Sums<N> sums(
      args,
      plan,
      reinterpret_cast<float*>(shared + plan.stages * stage_bytes),
      squares,
      multiplying * 32);
  int unit = share.first_unit;
  if (unit < units) {
    steps.begin(stages, blocks_at, lane);
  }
  for (int count = 0; unit < units; ++count, unit += share.unit_step) {
    float acc[N / 2] = {};
    const bool has_next = unit + share.unit_step < units;
    for (int k = share.begin; k < share.end; ++k) {
      steps.run(stages, blocks_at, lane, has_next || k + 1 < share.end, acc);
    }
    sums.store(unit_at(args, plan, unit), count, acc);
  }
#endif
}

struct Cut {
  int tile_blocks;
  int splits;
};

int stage_bytes_of(const PackedLayout& layout, int tile_rows, int tile_blocks) {
  const int chunk_count = kBlockCols / 8 + (layout.is_plain() ? 0 : 2);
  return chunk_count * tile_rows * 16 + kBlockCols * 2 +
      tile_blocks * layout.block_bytes();
}

int sums_bytes_of(int tile_rows, int tile_blocks) {
  return tile_rows * sums_pitch(tile_blocks) * 4;
}

int stages_of(
    const Launcher& launcher,
    const PackedLayout& layout,
    int tile_rows,
    int tile_blocks) {
  constexpr int kReserve = kStaticBytes + 512;
  const int left =
      launcher.shared_bytes - kReserve - sums_bytes_of(tile_rows, tile_blocks);
  return std::min(
      kMaxStages, left / stage_bytes_of(layout, tile_rows, tile_blocks));
}

int tile_rows_of(int num_rows) {
  return num_rows <= 8 ? 8 : num_rows <= 16 ? 16 : 32;
}

int n_tiles_of(const GemvArgs& args, int tile_blocks) {
  return (args.layout.row_blocks() + tile_blocks - 1) / tile_blocks;
}

int ceil_div(int a, int b) {
  return (a + b - 1) / b;
}

// Cycles that a block of threads needs for a step, where so many are at work:
// of the memory's, its own way to that and the products'.
double step_cycles(const PackedLayout& layout, int tile_blocks, int at_work) {
  const double n_bytes = 1.0 * tile_blocks * layout.block_bytes();
  const double memory = std::max(n_bytes * at_work / 2300, n_bytes / 40);
  const double products = 250 + 30.0 * compute_warps(tile_blocks);
  return std::max(memory, products);
}

// Clusters of so many blocks that a GPU has room for at once.
int clusters_at_once(const Launcher& launcher, int splits) {
  // Asked for once: it takes microseconds. Whoever comes second writes the
  // same.
  static std::atomic<int> known[kMaxSplits + 1] = {};
  if (splits == 1) {
    return launcher.num_sms;
  }
  int count = known[splits];
  if (count == 0) {
    auto* const kernel = few_rows_kernel<4, 64, 32>;
    const int bytes = 160 * 1024;
    check(
        cudaFuncSetAttribute(
            reinterpret_cast<const void*>(kernel),
            cudaFuncAttributeMaxDynamicSharedMemorySize,
            bytes),
        "clusters");
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(static_cast<unsigned>(splits));
    config.blockDim = dim3(kMaxThreads);
    config.dynamicSmemBytes = static_cast<std::size_t>(bytes);
    cudaLaunchAttribute attribute{};
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim.x = static_cast<unsigned>(splits);
    attribute.val.clusterDim.y = 1;
    attribute.val.clusterDim.z = 1;
    config.attrs = &attribute;
    config.numAttrs = 1;
    int found = 0;
    check(
        cudaOccupancyMaxActiveClusters(
            &found, reinterpret_cast<const void*>(kernel), &config),
        "clusters");
    count = std::max(1, found);
    known[splits] = count;
  }
  return count;
}

// The cut that takes least time, by what steps and meetings take.
Cut cut_of(
    const Launcher& launcher,
    const GemvArgs& args,
    int tile_rows,
    int m_tiles,
    bool one_by_one) {
  const auto& layout = args.layout;
  constexpr int kMinStages = 4;
  constexpr int kMeeting = 1500; // and for each block of it
  constexpr int kMeetingEach = 60;
  constexpr int kUnit = 300; // what storing takes
  Cut best{8, 1};
  double least = INFINITY;
  for (int tile_blocks = 8; tile_blocks <= 2 * kMaxComputeWarps;
       tile_blocks += 4) {
    const int stages = stages_of(launcher, layout, tile_rows, tile_blocks);
    if (tile_blocks > 8 && stages < kMinStages) {
      continue;
    }
    const int units = n_tiles_of(args, tile_blocks) * m_tiles;
    const int most = one_by_one ? 1 : std::min(kMaxSplits, layout.col_blocks());
    for (int splits = 1; splits <= most; ++splits) {
      const int at_once = clusters_at_once(launcher, splits);
      const double rounds = ceil_div(units, at_once);
      const int at_work = std::min(units, at_once) * splits;
      const double cycles = rounds *
              (ceil_div(layout.col_blocks(), splits) *
                   step_cycles(layout, tile_blocks, at_work) +
               kUnit) +
          (splits > 1 ? kMeeting + kMeetingEach * splits : 0);
      if (cycles < least) {
        least = cycles;
        best = {tile_blocks, splits};
      }
    }
  }
  return best;
}

// Experts that so many pairs meet, if they are drawn.
int experts_met(int num_pairs, int num_experts) {
  return static_cast<int>(std::lround(
      num_experts * (1 - std::pow(1 - 1.0 / num_experts, num_pairs))));
}

template <int Bits, int Group, int N>
void start(
    const Launcher& launcher,
    const GemvArgs& args,
    const Plan& plan,
    int blocks) {
  const std::size_t bytes = static_cast<std::size_t>(plan.stages) *
          static_cast<std::size_t>(stage_bytes_of(
              args.layout, N, plan.tile_blocks)) +
      static_cast<std::size_t>(sums_bytes_of(N, plan.tile_blocks));
  launch_clusters(
      Start::in_order,
      plan.splits,
      launcher,
      gemv_name,
      few_rows_kernel<Bits, Group, N>,
      dim3(static_cast<unsigned>(blocks)),
      (compute_warps(plan.tile_blocks) + kRowWarps) * 32,
      bytes,
      args,
      plan);
}

template <int Bits, int Group>
void start_rows(
    const Launcher& launcher,
    const GemvArgs& args,
    const Plan& plan,
    int tile_rows,
    int blocks) {
  switch (tile_rows) {
  case 8:
    return start<Bits, Group, 8>(launcher, args, plan, blocks);
  case 16:
    return start<Bits, Group, 16>(launcher, args, plan, blocks);
  default:
    return start<Bits, Group, 32>(launcher, args, plan, blocks);
  }
}

template <int Bits>
void start_group(
    const Launcher& launcher,
    const GemvArgs& args,
    const Plan& plan,
    int tile_rows,
    int blocks) {
  switch (args.layout.group) {
  case 32:
    return start_rows<Bits, 32>(launcher, args, plan, tile_rows, blocks);
  case 128:
    return start_rows<Bits, 128>(launcher, args, plan, tile_rows, blocks);
  default:
    return start_rows<Bits, 64>(launcher, args, plan, tile_rows, blocks);
  }
}

} // namespace
} // namespace few_rows

bool supports_few_rows(
    const Launcher& launcher,
    const PackedLayout& layout,
    Float type) {
  return supports_warpgroup_gemm(launcher, layout, type) &&
      layout.cols % 8 == 0 &&
      few_rows::stages_of(launcher, layout, kMaxFewRows, kBlockRows) >= 2;
}

bool prefers_few_rows(
    const Launcher& launcher,
    const PackedLayout& layout,
    Float type,
    int num_rows) {
  if (!supports_few_rows(launcher, layout, type)) {
    return false;
  }
  // Measured: where x is wide, arranging it for each tile of a tall matrix
  // costs more than a kernel of its own; elements leave too few stages.
  const int most_rows = layout.is_plain() ? 256
      : num_rows <= 8                     ? 1 << 30
      : num_rows <= 16                    ? 40000
                                          : 6144;
  return num_rows <= kMaxFewRows && layout.rows <= most_rows;
}

bool prefers_few_expert_rows(
    const Launcher& launcher,
    const PackedLayout& layout,
    Float type,
    int tile_rows) {
  // Wider tiles need more columns than storing their sums takes.
  return supports_few_rows(launcher, layout, type) && !layout.is_plain() &&
      (tile_rows <= 8 || (tile_rows <= 16 && layout.col_blocks() >= 12));
}

void few_rows_gemm(
    const Launcher& launcher,
    const GemvArgs& args,
    const GroupedRows& grouped) {
  using namespace few_rows;
  const bool has_experts = grouped.tiles != nullptr;
  const int tile_rows =
      has_experts ? grouped.tile_rows : tile_rows_of(args.num_rows);
  const int m_tiles =
      has_experts ? experts_met(args.num_rows, args.num_experts) : 1;
  Cut cut = cut_of(launcher, args, tile_rows, m_tiles, has_experts);
  const int n_tiles = n_tiles_of(args, cut.tile_blocks);
  const int blocks = cut.splits > 1 ? n_tiles * cut.splits
      : has_experts                 ? launcher.num_sms
                                    : std::min(n_tiles, launcher.num_sms);
  int stages = stages_of(launcher, args.layout, tile_rows, cut.tile_blocks);
  if (!has_experts && n_tiles * cut.splits <= blocks) {
    stages = std::max(
        2, std::min(stages, ceil_div(args.layout.col_blocks(), cut.splits)));
  }
  const Plan plan{
      map_of(args, cut.tile_blocks),
      cut.tile_blocks,
      n_tiles,
      cut.splits,
      stages,
      grouped};
  switch (args.layout.bits) {
  case 4:
    return start_group<4>(launcher, args, plan, tile_rows, blocks);
  case 8:
    return start_group<8>(launcher, args, plan, tile_rows, blocks);
  default:
    return start_rows<16, 0>(launcher, args, plan, tile_rows, blocks);
  }
}

} // namespace qwen3_mlx::cuda
