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

__device__ __forceinline__ int part(int total, int idx, int count) {
  return static_cast<int>(
      static_cast<unsigned long long>(total) * static_cast<unsigned>(idx) /
      static_cast<unsigned>(count));
}

#if defined(QWEN3_MLX_HAS_WARPGROUPS)

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

// A part of the run: steps of 128 columns.
struct Run {
  int begin;
  int end;
  int total;

  __device__ __forceinline__ Run(const GemvArgs& args, const Plan& plan) {
    const int col_blocks = plan.form.col_blocks;
    const int m_tiles =
        plan.grouped.tiles != nullptr ? *plan.grouped.num_tiles : plan.m_tiles;
    const int each = plan.whole ? col_blocks : 1;
    total = m_tiles * plan.n_tiles * (plan.whole ? 1 : col_blocks);
    const int blocks = static_cast<int>(gridDim.x);
    const int block = static_cast<int>(blockIdx.x);
    begin = part(total, block, blocks) * each;
    end = part(total, block + 1, blocks) * each;
    total *= each;
  }
};

// The warp that copies.
template <int BlockBytes>
__device__ __forceinline__ void copy_all(
    const GemvArgs& args,
    const Plan& plan,
    char* ring,
    std::uint64_t* full,
    std::uint64_t* empty) {
  const auto& layout = args.layout;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int col_blocks = plan.form.col_blocks;
  const int x_bytes = plan.form.block_bytes();
  const int stage_bytes = x_bytes + kTileBlocks * BlockBytes;
  const bool has_experts = plan.grouped.tiles != nullptr;
  if (has_experts) {
    let_next_start();
    wait_for_previous();
  }
  const Run run(args, plan);
  const char* from = nullptr; // of this lane: a row of blocks, or the rows of x
  const auto aim = [&](int at, int k) {
    const Tile tile = tile_at(args, plan, at / col_blocks);
    if (lane < kTileBlocks) {
      const int row_blocks = layout.row_blocks();
      int row;
      if (args.gated) { // one of the first half and one of the second in turn
        const int half = row_blocks / 2;
        row = min(tile.n_tile * (kTileBlocks / 2) + lane / 2, half - 1) +
            lane % 2 * half;
      } else {
        row = min(tile.n_tile * kTileBlocks + lane, row_blocks - 1);
      }
      from = static_cast<const char*>(args.weight) +
          tile.expert * layout.n_bytes() +
          static_cast<std::size_t>(row) * layout.row_bytes() +
          static_cast<std::size_t>(k) * BlockBytes;
    } else if (lane == kTileBlocks) {
      from = plan.arranged +
          static_cast<std::size_t>(tile.m_tile) * plan.form.tile_bytes() +
          static_cast<std::size_t>(k) * static_cast<std::size_t>(x_bytes);
    }
  };
  const int early = has_experts ? 0 : min(plan.stages, run.end - run.begin);
  int k = run.begin % col_blocks;
  if (run.begin < run.end) {
    aim(run.begin, k);
  }
  const char* const first_x = from;
  for (int i = 0; i < early; ++i) {
    if (i > 0 && k == 0) {
      aim(run.begin + i, 0);
    }
    if (lane == 0) {
      arrive_and_expect(full + i, static_cast<unsigned>(stage_bytes));
    }
    __syncwarp();
    if (lane < kTileBlocks) {
      copy_bulk(
          ring + i * stage_bytes + x_bytes + lane * BlockBytes,
          from,
          BlockBytes,
          full + i);
      from += BlockBytes;
    }
    k = k + 1 == col_blocks ? 0 : k + 1;
  }
  if (!has_experts) {
    let_next_start();
    wait_for_previous();
    if (lane == kTileBlocks) {
      from = first_x;
      int x_k = run.begin % col_blocks;
      for (int i = 0; i < early; ++i) {
        if (i > 0 && x_k == 0) {
          aim(run.begin + i, 0);
        }
        copy_bulk(
            ring + i * stage_bytes,
            from,
            static_cast<unsigned>(x_bytes),
            full + i);
        from += x_bytes;
        x_k = x_k + 1 == col_blocks ? 0 : x_k + 1;
      }
    }
  }
  int stage = early == plan.stages ? 0 : early;
  unsigned parity = early == plan.stages ? 0 : 1;
  for (int at = run.begin + early; at < run.end; ++at) {
    if (k == 0 || at == run.begin) {
      aim(at, k);
    }
    wait_for(empty + stage, parity);
    if (lane == 0) {
      arrive_and_expect(full + stage, static_cast<unsigned>(stage_bytes));
    }
    __syncwarp();
    if (lane < kTileBlocks) {
      copy_bulk(
          ring + stage * stage_bytes + x_bytes + lane * BlockBytes,
          from,
          BlockBytes,
          full + stage);
      from += BlockBytes;
    } else if (lane == kTileBlocks) {
      copy_bulk(
          ring + stage * stage_bytes,
          from,
          static_cast<unsigned>(x_bytes),
          full + stage);
      from += x_bytes;
    }
    k = k + 1 == col_blocks ? 0 : k + 1;
    if (++stage == plan.stages) {
      stage = 0;
      parity ^= 1U;
    }
  }
}

// Operands of two blocks of eight rows, for one quarter: both its products.
template <int Bits>
struct RowCodes {
  uint4 words[2][Bits == 4 ? 1 : Bits / 4];
  const char* from;
  int lane;

  __device__ __forceinline__ RowCodes(const char* block, int bytes, int of)
      : from(block), lane(of) {
    if constexpr (Bits == 4) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        words[i][0] =
            *reinterpret_cast<const uint4*>(block + i * bytes + lane * 16);
      }
    }
  }

  __device__ __forceinline__ void
  operands(int bytes, int quarter, unsigned (&a)[2][4]) const {
    unsigned pairs[2][4];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      if constexpr (Bits == 4) {
        const unsigned word = word_of(words[i][0], quarter);
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          pairs[i][j] = nibbles<false>(word, j);
        }
      } else {
        quarter_operands<Bits, false>(
            from + i * bytes, lane, quarter, pairs[i]);
      }
    }
#pragma unroll
    for (int s = 0; s < 2; ++s) {
      a[s][0] = pairs[0][2 * s];
      a[s][1] = pairs[1][2 * s];
      a[s][2] = pairs[0][2 * s + 1];
      a[s][3] = pairs[1][2 * s + 1];
    }
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
  const int blocks = static_cast<int>(gridDim.x);
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
  for (int block = first; block <= last; ++block) {
    const float* const from =
        partial_of(block, part(run.total, block, blocks) > tile_begin ? 0 : 1);
#pragma unroll
    for (int i = 0; i < N / 2; i += 4) {
      const float4 v =
          __ldcg(reinterpret_cast<const float4*>(from + i * kComputeThreads));
      acc[i] += v.x, acc[i + 1] += v.y, acc[i + 2] += v.z, acc[i + 3] += v.w;
    }
  }
  if (tid == 0) {
    plan.counters[tile_idx] = 0;
  }
  return true;
}

// 128 columns of 64 rows: codes as they are, scaled group by group.
template <int Bits, int Group, int N>
__device__ __forceinline__ void
multiply_exact(const char* blocks, unsigned xs, int lane, float (&acc)[N / 2]) {
  constexpr int kGroups = kBlockCols / Group;
  constexpr int kQuarters = 4 / kGroups;
  constexpr int kCodeBytes = kBlockRows * kBlockCols / 8 * Bits;
  constexpr int kBlockBytes = kCodeBytes + kGroups * 32;
  const RowCodes<Bits> codes(blocks, kBlockBytes, lane);
  const char* const scales_at = blocks + kCodeBytes + lane / 4 * 4;
  unsigned scales[kGroups][2];
#pragma unroll
  for (int group = 0; group < kGroups; ++group) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      scales[group][i] = *reinterpret_cast<const unsigned*>(
          scales_at + i * kBlockBytes + group * 32);
    }
  }
  // The group whose sums this thread's columns of the last product are of.
  const int t = lane % 4;
  const int of_sum = kGroups == 4 ? t : kGroups == 2 ? t / 2 : 0;
  unsigned factors[4];
  factors[0] = *reinterpret_cast<const unsigned*>(scales_at + of_sum * 32);
  factors[1] =
      *reinterpret_cast<const unsigned*>(scales_at + kBlockBytes + of_sum * 32);
  factors[2] = factors[0];
  factors[3] = factors[1];

  constexpr int kBuffers = N == 32 ? 1 : 2; // as registers allow
  float sums[kBuffers][N / 2];
  const auto add = [&](int group) {
    const float s0 = low_bf16(scales[group][0]);
    const float s1 = low_bf16(scales[group][1]);
    auto& of_group = sums[group % kBuffers];
    pin(of_group);
#pragma unroll
    for (int i = 0; i < N / 2; ++i) {
      acc[i] = fmaf(i % 4 < 2 ? s0 : s1, of_group[i], acc[i]);
    }
  };
#pragma unroll
  for (int group = 0; group < kGroups; ++group) {
    unsigned a[kQuarters][2][4];
#pragma unroll
    for (int q = 0; q < kQuarters; ++q) {
      codes.operands(kBlockBytes, group * kQuarters + q, a[q]);
    }
    auto& of_group = sums[group % kBuffers];
    pin(of_group);
    begin_products();
    if (group == 0) {
      pin(acc);
      WarpgroupProduct<N>::run(
          acc, factors, operand_at(xs + 16 * N * 16, N * 16), 1);
    }
#pragma unroll
    for (int q = 0; q < kQuarters; ++q) {
#pragma unroll
      for (int s = 0; s < 2; ++s) {
        const unsigned chunk =
            static_cast<unsigned>((group * kQuarters + q) * 4 + s * 2);
        WarpgroupProduct<N>::run(
            of_group,
            a[q][s],
            operand_at(xs + chunk * N * 16, N * 16),
            q + s > 0 ? 1 : 0);
      }
    }
    commit_products();
    if constexpr (kBuffers == 1) {
      wait_for_products<0>();
      pin(acc);
      add(group);
    } else if (group > 0) {
      wait_for_products<1>();
      pin(acc);
      add(group - 1);
    }
  }
  if constexpr (kBuffers == 2) {
    wait_for_products<0>();
    pin(acc);
    add(kGroups - 1);
  }
}

// The same with weights rounded to bfloat16, or plain ones.
template <int Bits, int Group, int N>
__device__ __forceinline__ void multiply_rounded(
    const char* blocks,
    unsigned xs,
    int lane,
    float (&acc)[N / 2]) {
  constexpr int kGroups = Group == 0 ? 1 : kBlockCols / Group;
  constexpr int kQuarters = 4 / kGroups;
  constexpr int kCodeBytes = kBlockRows * kBlockCols / 8 * Bits;
  constexpr int kBlockBytes = kCodeBytes + (Group == 0 ? 0 : kGroups * 32);
  const RowCodes<Bits> codes(blocks, kBlockBytes, lane);
  const char* const scales_at = blocks + kCodeBytes + lane / 4 * 4;
  pin(acc);
#pragma unroll
  for (int quarter = 0; quarter < 4; ++quarter) {
    unsigned a[2][4];
    codes.operands(kBlockBytes, quarter, a);
    if constexpr (Group != 0) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const unsigned pair = *reinterpret_cast<const unsigned*>(
            scales_at + i * kBlockBytes + quarter / kQuarters * 32);
        const auto scale = __float2bfloat162_rn(low_bf16(pair));
        const auto bias = __float2bfloat162_rn(high_bf16(pair));
        const auto offset = __float2bfloat162_rn(code_offset(Bits));
#pragma unroll
        for (int s = 0; s < 2; ++s) {
#pragma unroll
          for (int j = i; j < 4; j += 2) {
            auto& w = *reinterpret_cast<__nv_bfloat162*>(&a[s][j]);
            if constexpr (Bits == 4) {
              w = __hsub2(w, offset);
            }
            w = __hfma2(w, scale, bias);
          }
        }
      }
    }
    begin_products();
#pragma unroll
    for (int s = 0; s < 2; ++s) {
      const unsigned chunk = static_cast<unsigned>(quarter * 4 + s * 2);
      WarpgroupProduct<N>::run(
          acc, a[s], operand_at(xs + chunk * N * 16, N * 16), 1);
    }
    commit_products();
  }
  wait_for_products<0>();
  pin(acc);
}

#endif

QWEN3_MLX_HOST_DEVICE constexpr int block_bytes_of(int bits, int group) {
  return kBlockRows * kBlockCols / 8 * bits +
      (group == 0 ? 0 : kBlockCols / group * 32);
}

template <int Bits, int Group, int N>
__global__ void __launch_bounds__(kThreads, blocks_per_sm(N))
    warpgroup_kernel(const GemvArgs args, const Plan plan) {
#if defined(QWEN3_MLX_HAS_WARPGROUPS)
  constexpr int kBytes = block_bytes_of(Bits, Group);
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
    copy_all<kBytes>(args, plan, shared, full, empty);
    return;
  }
  let_next_start();
  wait_for_previous();
  const Run run(args, plan);
  const int col_blocks = plan.form.col_blocks;
  float* const scratch =
      reinterpret_cast<float*>(shared + plan.stages * stage_bytes) +
      warp * (kStoreRows * kStoreStride);
  float acc[N / 2] = {};
  int stage = 0;
  unsigned parity = 0;
  int k = run.begin % col_blocks;
  for (int at = run.begin; at < run.end; ++at) {
    wait_for(full + stage, parity);
    const char* const xs = shared + stage * stage_bytes;
    const char* const blocks = xs + x_bytes + warp * 2 * kBytes;
    if constexpr (Group != 0 && N <= kMaxExactRows) {
      multiply_exact<Bits, Group, N>(blocks, shared_address(xs), lane, acc);
    } else {
      multiply_rounded<Bits, Group, N>(blocks, shared_address(xs), lane, acc);
    }
    __syncwarp();
    if (lane == 0) {
      arrive(empty + stage);
    }
    if (++stage == plan.stages) {
      stage = 0;
      parity ^= 1U;
    }
    if (++k == col_blocks || at + 1 == run.end) {
      const int tile_idx = at / col_blocks;
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
  // Experts are not chosen alike: most have up to this many.
  return std::min(kMaxTileRows, 2 * num_pairs / num_experts + 4);
}

int min_grouped_pairs(const Launcher& launcher, int num_experts) {
  return launcher.has_warpgroups ? num_experts / 2 : 2 * num_experts + 1;
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

int g_tune[4] = {2, 0, 0, 0};

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
  if (g_tune[1] != 0) {
    blocks = std::min(blocks, launcher.num_sms * g_tune[1]);
  }
  if (grouped.tiles == nullptr) {
    const int tiles = plan.m_tiles * plan.n_tiles;
    // A block of threads is worth its start, and its part of a tile the meeting
    // with the others, from some columns on.
    blocks = std::clamp(tiles * form.col_blocks / g_tune[0], 1, blocks);
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
