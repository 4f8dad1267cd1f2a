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

#include <cuda.h>

#include <algorithm>
#include <type_traits>

#include "kernels/cuda/block_codes.cuh"
#include "kernels/cuda/device_code.cuh"
#include "kernels/cuda/warpgroup.cuh"

namespace qwen3_mlx::cuda {
namespace {

constexpr int kComputeWarps = 8;
constexpr int kComputeThreads = kComputeWarps * 32;
constexpr int kThreads = kComputeThreads + 32;
// Blocks of threads that a multiprocessor has at once.
QWEN3_MLX_HOST_DEVICE constexpr int blocks_per_sm(int tile_rows) {
  return tile_rows <= 32 ? 2 : 1;
}
constexpr int kTileN = 128; // rows of the matrix
constexpr int kTileBlocks = kTileN / kBlockRows;
constexpr int kMaxStages = 8;
// Rows of x that a warp stores at once, and floats between them.
constexpr int kStoreRows = 16;
constexpr int kStoreStride = 20;
constexpr int kStoreBytes = kComputeWarps * kStoreRows * kStoreStride * 4;
// Up to so many rows of x codes are scaled after the product.
constexpr int kMaxExactRows = 64;
constexpr int kMaxTileRows = 128;

struct Plan {
  CUtensorMap weights; // [expert, row of blocks, half if gated, bytes / 8]
  ArrangedForm form;
  const char* arranged;
  int m_tiles; // without experts
  int n_tiles;
  int stages;
  bool whole; // tiles are not cut
  float* partial;
  unsigned* counters;
  GroupedRows grouped;
};

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
__device__ int warpgroup_code = 1;
#else
__device__ int warpgroup_code = 0;
#endif

// Blocks of threads among which so many tiles are cut: a part of a tile must be
// worth the meeting with the others, and few tiles are cut alike.
__host__ __device__ __forceinline__ int
useful_blocks(int tiles, int col_blocks, int most) {
  constexpr int kMinSteps = 4;
  const int wanted = tiles * col_blocks / kMinSteps;
  const int blocks = wanted < 1 ? 1 : wanted < most ? wanted : most;
  return tiles < 1 || tiles >= blocks ? blocks : blocks / tiles * tiles;
}

#if defined(QWEN3_MLX_HAS_WARPGROUPS)

__device__ __forceinline__ int part(int total, int idx, int count) {
  return static_cast<int>(
      static_cast<unsigned long long>(total) * static_cast<unsigned>(idx) /
      static_cast<unsigned>(count));
}

// Where a tile lies.
struct Tile {
  int m_tile;
  int n_tile;
  int first_row; // of x, or of the sorted rows
  int num_rows;
  unsigned expert;
};

__device__ __forceinline__ Tile
tile_at(const GemvArgs& args, const Plan& plan, int idx) {
  Tile tile;
  if (plan.grouped.tiles != nullptr) {
    tile.m_tile = idx / plan.n_tiles;
    tile.n_tile = idx - tile.m_tile * plan.n_tiles;
    const ExpertTile of = plan.grouped.tiles[tile.m_tile];
    tile.expert = of.expert;
    tile.first_row = of.first;
    tile.num_rows = of.count;
  } else {
    tile.n_tile = idx / plan.m_tiles;
    tile.m_tile = idx - tile.n_tile * plan.m_tiles;
    tile.expert = 0;
    tile.first_row = tile.m_tile * plan.form.tile_rows;
    tile.num_rows = min(plan.form.tile_rows, args.num_rows - tile.first_row);
  }
  return tile;
}

// This block of threads' part of the run: steps of 128 columns.
struct Run {
  int blocks; // that have a part
  int begin;
  int end;
  int total;

  __device__ __forceinline__ explicit Run(const Plan& plan) {
    const int col_blocks = plan.form.col_blocks;
    const int m_tiles =
        plan.grouped.tiles != nullptr ? *plan.grouped.num_tiles : plan.m_tiles;
    const int tiles = m_tiles * plan.n_tiles;
    total = tiles * col_blocks;
    const int block = static_cast<int>(blockIdx.x);
    const int each = plan.whole ? col_blocks : 1;
    blocks = plan.whole
        ? static_cast<int>(gridDim.x)
        : useful_blocks(tiles, col_blocks, static_cast<int>(gridDim.x));
    begin = block < blocks ? part(total / each, block, blocks) * each : total;
    end = block < blocks ? part(total / each, block + 1, blocks) * each : total;
  }
};

// What the copying thread does.
template <int BlockBytes>
class Copies {
 public:
  __device__ __forceinline__ Copies(
      const GemvArgs& args,
      const Plan& plan,
      char* ring,
      std::uint64_t* full)
      : args_(args), plan_(plan), ring_(ring), full_(full),
        x_bytes_(plan.form.block_bytes()) {}

  __device__ __forceinline__ void expect(int stage) const {
    arrive_and_expect(
        full_ + stage,
        static_cast<unsigned>(x_bytes_ + kTileBlocks * BlockBytes));
  }
  __device__ __forceinline__ void weights(int at, int stage) {
    const int k = aim(at);
    copy_box(
        ring_ + stage * (x_bytes_ + kTileBlocks * BlockBytes) + x_bytes_,
        &plan_.weights,
        k * (BlockBytes / 8),
        tile_.n_tile * (args_.gated ? kTileBlocks / 2 : kTileBlocks),
        static_cast<int>(tile_.expert),
        full_ + stage);
  }
  __device__ __forceinline__ void rows(int at, int stage) {
    const int k = aim(at);
    copy_bulk(
        ring_ + stage * (x_bytes_ + kTileBlocks * BlockBytes),
        plan_.arranged +
            static_cast<std::size_t>(tile_.m_tile) * plan_.form.tile_bytes() +
            static_cast<std::size_t>(k) * static_cast<std::size_t>(x_bytes_),
        static_cast<unsigned>(x_bytes_),
        full_ + stage);
  }

 private:
  // The block of columns of that step, whose tile is tile_ from here on.
  __device__ __forceinline__ int aim(int at) {
    const int col_blocks = plan_.form.col_blocks;
    if (at < first_ || at >= first_ + col_blocks) {
      const int idx = at / col_blocks;
      first_ = idx * col_blocks;
      tile_ = tile_at(args_, plan_, idx);
    }
    return at - first_;
  }

  const GemvArgs& args_;
  const Plan& plan_;
  char* ring_;
  std::uint64_t* full_;
  int x_bytes_;
  Tile tile_{};
  int first_ = 0x40000000;
};

template <int BlockBytes>
__device__ __forceinline__ void copy_all(
    const GemvArgs& args,
    const Plan& plan,
    char* ring,
    std::uint64_t* full,
    std::uint64_t* empty) {
  const bool has_experts = plan.grouped.tiles != nullptr;
  if (has_experts) {
    let_next_start();
    wait_for_previous();
  }
  const Run run(plan);
  Copies<BlockBytes> copies(args, plan, ring, full);
  // Without experts weights depend on nothing.
  const int early = min(plan.stages, run.end - run.begin);
  for (int i = 0; i < early; ++i) {
    copies.expect(i);
    copies.weights(run.begin + i, i);
  }
  if (!has_experts) {
    let_next_start();
    wait_for_previous();
  }
  for (int i = 0; i < early; ++i) {
    copies.rows(run.begin + i, i);
  }
  int stage = 0;
  unsigned parity = 0;
  for (int at = run.begin + early; at < run.end; ++at) {
    wait_for(empty + stage, parity);
    copies.expect(stage);
    copies.weights(at, stage);
    copies.rows(at, stage);
    if (++stage == plan.stages) {
      stage = 0;
      parity ^= 1U;
    }
  }
}

// Two blocks of eight rows: 16 rows of the first operand. Codes of 4 bits are
// read ahead, whole; wider ones when they are needed.
template <int Bits, int Group>
struct RowBlocks {
  static constexpr int kGroups = Group == 0 ? 1 : kBlockCols / Group;
  static constexpr int kCodeBytes = kBlockRows * kBlockCols / 8 * Bits;
  static constexpr int kBytes = kCodeBytes + (Group == 0 ? 0 : kGroups * 32);

  uint4 words[2];
  const char* from;

  __device__ __forceinline__ void load(const char* blocks, int lane) {
    from = blocks;
    if constexpr (Bits == 4) {
      words[0] = *reinterpret_cast<const uint4*>(blocks + lane * 16);
      words[1] = *reinterpret_cast<const uint4*>(blocks + kBytes + lane * 16);
    }
  }

  // Of one quarter: both its products.
  __device__ __forceinline__ void
  operands(int quarter, int lane, unsigned (&a)[2][4]) const {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      unsigned pairs[4];
      if constexpr (Bits == 4) {
        const unsigned word = word_of(words[i], quarter);
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          pairs[j] = nibbles<false>(word, j);
        }
      } else {
        quarter_operands<Bits, false>(from + i * kBytes, lane, quarter, pairs);
      }
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        a[j][i] = pairs[2 * j];
        a[j][i + 2] = pairs[2 * j + 1];
      }
    }
  }

  // The scale and the bias of this thread's row of block `i`.
  __device__ __forceinline__ unsigned scale(int i, int group, int lane) const {
    return *reinterpret_cast<const unsigned*>(
        from + i * kBytes + kCodeBytes + group * 32 + lane / 4 * 4);
  }
};

// Stores what a warp has of a tile: 16 rows of blocks, 8 of them gates.
template <int N>
__device__ __forceinline__ void store_tile(
    const GemvArgs& args,
    const Plan& plan,
    const Tile& tile,
    const float (&acc)[N / 2],
    float* scratch,
    int warp,
    int lane) {
  const int out_cols = args.gated ? args.layout.rows / 2 : args.layout.rows;
  const int row_in_store = lane / 2;
  const int half = lane % 2;
  const int warps_before = tile.n_tile * kComputeWarps + warp;
  const int width = args.gated ? 4 : 8; // outputs of a lane
  const int col =
      args.gated ? warps_before * 8 + half * 4 : warps_before * 16 + half * 8;
  const bool aligned = out_cols % 8 == 0;
  constexpr int kEights = N < kStoreRows ? 1 : 2;
#pragma unroll
  for (int first = 0; first < N; first += kStoreRows) {
    if (first >= tile.num_rows) {
      break;
    }
    __syncwarp();
#pragma unroll
    for (int j = 0; j < kEights; ++j) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        scratch
            [(j * 8 + lane % 4 * 2 + i % 2) * kStoreStride + lane / 4 +
             i / 2 * 8] = acc[(first / 8 + j) * 4 + i];
      }
    }
    __syncwarp();
    const int row = first + row_in_store;
    if (row >= min(tile.num_rows, N) || col >= out_cols) {
      continue;
    }
    int out_row = tile.first_row + row;
    if (plan.grouped.out_rows != nullptr) {
      out_row = plan.grouped.out_rows[out_row];
    }
    const float* const from = scratch + row_in_store * kStoreStride;
    float v[8];
    const std::size_t at =
        static_cast<std::size_t>(out_row) * static_cast<std::size_t>(out_cols) +
        static_cast<std::size_t>(col);
    const auto* const bias = static_cast<const __nv_bfloat16*>(args.bias);
    if (args.gated) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        float gate = from[half * 4 + i];
        float up = from[8 + half * 4 + i];
        if (bias != nullptr && col + i < out_cols) {
          gate += __bfloat162float(bias[col + i]);
          up += __bfloat162float(bias[out_cols + col + i]);
        }
        v[i] = gate / (1.0F + __expf(-gate)) * up;
        v[4 + i] = 0;
      }
    } else {
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        v[i] = from[half * 8 + i];
        if (bias != nullptr && col + i < out_cols) {
          v[i] += __bfloat162float(bias[col + i]);
        }
      }
    }
    if (!aligned) {
      for (int i = 0; i < width && col + i < out_cols; ++i) {
        float value = v[i];
        if (args.residual != nullptr) {
          value += load_float(
              args.residual, Float::bf16, at + static_cast<std::size_t>(i));
        }
        store_float(
            args.y, Float::bf16, at + static_cast<std::size_t>(i), value);
      }
      continue;
    }
    if (args.gated) {
      if (args.residual != nullptr) {
        const uint2 r = *reinterpret_cast<const uint2*>(
            static_cast<const __nv_bfloat16*>(args.residual) + at);
        v[0] += low_bf16(r.x), v[1] += high_bf16(r.x);
        v[2] += low_bf16(r.y), v[3] += high_bf16(r.y);
      }
      *reinterpret_cast<uint2*>(static_cast<__nv_bfloat16*>(args.y) + at) =
          make_uint2(pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]));
      continue;
    }
    if (args.residual != nullptr) {
      float r[8];
      load_eight(args.residual, Float::bf16, at, r);
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        v[i] += r[i];
      }
    }
    *reinterpret_cast<uint4*>(static_cast<__nv_bfloat16*>(args.y) + at) =
        make_uint4(
            pack_bf16(v[0], v[1]),
            pack_bf16(v[2], v[3]),
            pack_bf16(v[4], v[5]),
            pack_bf16(v[6], v[7]));
  }
}

__device__ __forceinline__ void meet_compute_threads() {
  asm volatile("bar.sync 1, %0;" ::"n"(kComputeThreads) : "memory");
}

// Adds up what other blocks of threads have of a tile that is cut. Whether it
// is complete then, and this block's to store.
template <int N>
__device__ __forceinline__ bool collect(
    const Plan& plan,
    const Run& run,
    int tile_idx,
    float (&acc)[N / 2],
    unsigned* arrived) {
  const int col_blocks = plan.form.col_blocks;
  const int tile_begin = tile_idx * col_blocks;
  const int tile_end = tile_begin + col_blocks;
  if (run.begin <= tile_begin && run.end >= tile_end) {
    return true;
  }
  const int tid = static_cast<int>(threadIdx.x);
  const auto partial_of = [&](int block, int slot) {
    return plan.partial +
        static_cast<std::size_t>(block * 2 + slot) * (N / 2 * kComputeThreads) +
        tid * 4;
  };
  float* const to =
      partial_of(static_cast<int>(blockIdx.x), run.begin > tile_begin ? 0 : 1);
#pragma unroll
  for (int i = 0; i < N / 2; i += 4) {
    __stcg(
        reinterpret_cast<float4*>(to + i * kComputeThreads),
        make_float4(acc[i], acc[i + 1], acc[i + 2], acc[i + 3]));
  }
  __threadfence();
  meet_compute_threads();
  if (tid == 0) {
    *arrived = atomicAdd(plan.counters + tile_idx, 1U);
  }
  meet_compute_threads();
  const int blocks = run.blocks;
  const auto block_with = [&](int unit) {
    return static_cast<int>(
        ((static_cast<unsigned long long>(unit) + 1) *
             static_cast<unsigned>(blocks) -
         1) /
        static_cast<unsigned>(run.total));
  };
  const int first = block_with(tile_begin);
  const int last = block_with(tile_end - 1);
  if (*arrived + 1 != static_cast<unsigned>(last - first + 1)) {
    return false;
  }
  __threadfence();
#pragma unroll
  for (float& sum : acc) {
    sum = 0;
  }
  // Several at a time: each is a long way off. More would spill registers.
  constexpr int kAtOnce = N == 8 ? 8 : N == 16 ? 4 : N <= 64 ? 2 : 1;
  for (int block = first; block <= last; block += kAtOnce) {
    float4 parts[kAtOnce][N / 8];
#pragma unroll
    for (int b = 0; b < kAtOnce; ++b) {
      const bool has = block + b <= last;
      const float* const from = partial_of(
          min(block + b, last),
          part(run.total, min(block + b, last), blocks) > tile_begin ? 0 : 1);
#pragma unroll
      for (int i = 0; i < N / 8; ++i) {
        parts[b][i] = has ? __ldcg(reinterpret_cast<const float4*>(
                                from + i * 4 * kComputeThreads))
                          : make_float4(0, 0, 0, 0);
      }
    }
#pragma unroll
    for (int b = 0; b < kAtOnce; ++b) {
#pragma unroll
      for (int i = 0; i < N / 8; ++i) {
        acc[4 * i] += parts[b][i].x;
        acc[4 * i + 1] += parts[b][i].y;
        acc[4 * i + 2] += parts[b][i].z;
        acc[4 * i + 3] += parts[b][i].w;
      }
    }
  }
  if (tid == 0) {
    plan.counters[tile_idx] = 0;
  }
  return true;
}

// The arranged rows of a stage as second operands, by their chunk.
template <int N>
struct RowOperands {
  unsigned low; // the same in all threads, and known to be

  __device__ __forceinline__ explicit RowOperands(const void* rows)
      : low(__shfl_sync(0xffffffffU, shared_address(rows) >> 4 | N << 16, 0)) {}
  __device__ __forceinline__ std::uint64_t at(int chunk) const {
    return std::uint64_t{128 >> 4} << 32 |
        (low + static_cast<unsigned>(chunk * N));
  }
};

// The stage that is worked on, and the one after it.
struct Stages {
  char* ring;
  int stage_bytes;
  int count;
  std::uint64_t* full;
  std::uint64_t* empty;
  int idx = 0;
  unsigned parity = 0;

  __device__ __forceinline__ const char* data() const {
    return ring + idx * stage_bytes;
  }
  __device__ __forceinline__ void wait() const {
    wait_for(full + idx, parity);
  }
  __device__ __forceinline__ void release(int stage, int lane) const {
    __syncwarp();
    if (lane == 0) {
      arrive(empty + stage);
    }
  }
  __device__ __forceinline__ void next() {
    if (++idx == count) {
      idx = 0;
      parity ^= 1U;
    }
  }
};

// Multiplies codes as they are and scales sums group by group: 128 columns of
// 64 rows a step.
template <int Bits, int Group, int N>
class ExactSteps {
  using Blocks = RowBlocks<Bits, Group>;
  static constexpr int kGroups = Blocks::kGroups;
  static constexpr int kQuarters = 4 / kGroups;
  static constexpr int kBuffers = N == 32 ? 1 : 2; // as registers allow

 public:
  __device__ __forceinline__ void
  begin(const Stages& stages, int blocks_at, int lane) {
    stages.wait();
    blocks_.load(stages.data() + blocks_at, lane);
  }

  // One step; reads the codes of the next, if there is one.
  __device__ __forceinline__ void
  run(Stages& stages,
      int blocks_at,
      int lane,
      bool has_next,
      float (&acc)[N / 2]) {
    const RowOperands<N> rows(stages.data());
    const int stage = stages.idx;
    float scales[kGroups][2];
#pragma unroll
    for (int group = 0; group < kGroups; ++group) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        scales[group][i] = low_bf16(blocks_.scale(i, group, lane));
      }
    }
    // The group whose sums this thread's columns of the last product are of.
    const int t = lane % 4;
    const int of_sum = kGroups == 4 ? t : kGroups == 2 ? t / 2 : 0;
    unsigned factors[4];
    factors[0] = factors[2] = blocks_.scale(0, of_sum, lane);
    factors[1] = factors[3] = blocks_.scale(1, of_sum, lane);

    float sums[kBuffers][N / 2];
    const auto add = [&](int group) {
      pin(sums[group % kBuffers]);
#pragma unroll
      for (int i = 0; i < N / 2; ++i) {
        acc[i] =
            fmaf(scales[group][i % 4 / 2], sums[group % kBuffers][i], acc[i]);
      }
    };
#pragma unroll
    for (int group = 0; group < kGroups; ++group) {
      unsigned a[kQuarters][2][4];
#pragma unroll
      for (int q = 0; q < kQuarters; ++q) {
        blocks_.operands(group * kQuarters + q, lane, a[q]);
      }
      if (kBuffers == 1 && group > 0) {
        wait_for_products<0>();
        pin(acc);
        add(group - 1);
      } else if (group >= kBuffers) {
        wait_for_products<1>();
        pin(acc);
        add(group - kBuffers);
      }
      auto& of_group = sums[group % kBuffers];
      pin(of_group);
      begin_products();
      if (group == 0) {
        pin(acc);
        WarpgroupProduct<N>::run(acc, factors, rows.at(kBlockCols / 8), 1);
      }
#pragma unroll
      for (int q = 0; q < kQuarters; ++q) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          WarpgroupProduct<N>::run(
              of_group,
              a[q][i],
              rows.at((group * kQuarters + q) * 4 + i * 2),
              q + i > 0 ? 1 : 0);
        }
      }
      commit_products();
    }
    stages.next();
    if (has_next) {
      begin(stages, blocks_at, lane);
    }
    wait_for_products<0>();
    pin(acc);
#pragma unroll
    for (int group = kGroups > kBuffers ? kGroups - kBuffers : 0;
         group < kGroups;
         ++group) {
      add(group);
    }
    stages.release(stage, lane);
  }

 private:
  Blocks blocks_;
};

// The same with weights rounded to bfloat16, or plain ones.
template <int Bits, int Group, int N>
class RoundedSteps {
  using Blocks = RowBlocks<Bits, Group>;
  static constexpr int kQuarters = 4 / Blocks::kGroups;

 public:
  __device__ __forceinline__ void
  begin(const Stages& stages, int blocks_at, int lane) {
    stages.wait();
    blocks_.load(stages.data() + blocks_at, lane);
  }

  __device__ __forceinline__ void
  run(Stages& stages,
      int blocks_at,
      int lane,
      bool has_next,
      float (&acc)[N / 2]) {
    const RowOperands<N> rows(stages.data());
    const int stage = stages.idx;
    pin(acc);
    unsigned a[2][2][4];
#pragma unroll
    for (int quarter = 0; quarter < 4; ++quarter) {
      auto& now = a[quarter % 2];
      blocks_.operands(quarter, lane, now);
      if constexpr (Group != 0) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          scale(blocks_.scale(i, quarter / kQuarters, lane), i, now);
        }
      }
      begin_products();
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        WarpgroupProduct<N>::run(acc, now[i], rows.at(quarter * 4 + i * 2), 1);
      }
      commit_products();
      wait_for_products<1>();
    }
    stages.next();
    if (has_next) {
      begin(stages, blocks_at, lane);
    }
    wait_for_products<0>();
    pin(acc);
    stages.release(stage, lane);
  }

 private:
  static __device__ __forceinline__ void
  scale(unsigned pair, int block, unsigned (&a)[2][4]) {
    const auto scale = __float2bfloat162_rn(low_bf16(pair));
    const auto bias = __float2bfloat162_rn(high_bf16(pair));
    const auto offset = __float2bfloat162_rn(code_offset(Bits));
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
      for (int j = block; j < 4; j += 2) {
        auto& w = *reinterpret_cast<__nv_bfloat162*>(&a[i][j]);
        if constexpr (Bits == 4) {
          w = __hsub2(w, offset);
        }
        w = __hfma2(w, scale, bias);
      }
    }
  }

  Blocks blocks_;
};

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

using EncodeTensorMap = CUresult (*)(
    CUtensorMap*,
    CUtensorMapDataType,
    cuuint32_t,
    void*,
    const cuuint64_t*,
    const cuuint64_t*,
    const cuuint32_t*,
    const cuuint32_t*,
    CUtensorMapInterleave,
    CUtensorMapSwizzle,
    CUtensorMapL2promotion,
    CUtensorMapFloatOOBfill);

// The driver's function, which is found at run time.
EncodeTensorMap encode_tensor_map() {
  static const auto found = [] {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult result{};
    check(
        cudaGetDriverEntryPointByVersion(
            "cuTensorMapEncodeTiled",
            &function,
            12000,
            cudaEnableDefault,
            &result),
        "tensor map");
    if (function == nullptr || result != cudaDriverEntryPointSuccess) {
      throw Error("CUDA: the driver knows no tensor maps");
    }
    return reinterpret_cast<EncodeTensorMap>(function);
  }();
  return found;
}

// The matrix for the copy engine: 16 rows of blocks at once, in turn of the
// first and second half if they are gated. What is beyond its rows reads zeros.
CUtensorMap map_of(const GemvArgs& args) {
  const auto& layout = args.layout;
  const auto halves = static_cast<cuuint32_t>(args.gated ? 2 : 1);
  const auto rows = static_cast<cuuint64_t>(layout.row_blocks()) / halves;
  const cuuint64_t shape[] = {
      layout.row_bytes() / 8,
      halves,
      rows,
      static_cast<cuuint64_t>(std::max(1, args.num_experts))};
  const cuuint64_t strides[] = {
      rows * layout.row_bytes(), layout.row_bytes(), layout.n_bytes()};
  const cuuint32_t box[] = {
      static_cast<cuuint32_t>(layout.block_bytes() / 8),
      halves,
      kTileBlocks / halves,
      1};
  const cuuint32_t steps[] = {1, 1, 1, 1};
  CUtensorMap map{};
  const CUresult status = encode_tensor_map()(
      &map,
      CU_TENSOR_MAP_DATA_TYPE_INT64,
      4,
      const_cast<void*>(args.weight),
      shape,
      strides,
      box,
      steps,
      CU_TENSOR_MAP_INTERLEAVE_NONE,
      CU_TENSOR_MAP_SWIZZLE_NONE,
      CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
      CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (status != CUDA_SUCCESS) {
    throw Error(
        "CUDA: a tensor map was refused: " +
        std::to_string(static_cast<int>(status)));
  }
  return map;
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
      layout.type == Float::bf16;
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
      map_of(args),
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
