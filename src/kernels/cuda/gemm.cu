// SPDX-License-Identifier: MIT
// Products of more rows than gemv() takes with a packed matrix, and of rows
// sorted by expert with a stack of them: the kernel.
//
// A block of threads computes tiles of kTileM rows of x and 128 rows of the
// matrix, 128 columns at a time, through a ring of stages in shared memory.
// Four warps share out the matrix's rows; the other factor of two is rows of x,
// or for few of them the columns. Codes become operands in registers, scaled
// and rounded to the type of x. Without experts the columns of all tiles form
// one run that is cut into equal parts, one for each block of threads: a tile
// that is cut is summed by the last of its blocks to arrive, in their order.
#include <algorithm>

#include "kernels/cuda/gemm_pieces.cuh"

namespace qwen3_mlx::cuda {
namespace {

template <int Bits, class T, int TileM>
__global__ void __launch_bounds__(kGemmThreads, TileM == 128 ? 1 : 2)
    gemm_kernel(const GemvArgs args, const GemmPlan plan) {
  using Math = Arithmetic<T>;
  constexpr int kStages = stages_of<Bits, TileM>;
  constexpr int kMostBytes = // of a block, with most scales
      kBlockRows * kBlockCols / 8 * Bits + (Bits == 16 ? 0 : 128);
  constexpr bool kSplitCols = TileM == 32;
  constexpr int kWarpM = TileM == 128 ? 64 : 32; // rows of x a warp has
  constexpr int kM = kWarpM / 16;
  constexpr int kQuarters = kSplitCols ? 2 : 4;
  constexpr int kXBytes = TileM * kBlockCols * 2;
  constexpr float kOffset = Bits == 16 ? 0.0F
      : Math::half                     ? 1024.0F
      : Bits == 4                      ? 128.0F
                                       : 0.0F;

  extern __shared__ __align__(16) char shared[];
  __shared__ unsigned arrived;
  const auto& layout = args.layout;
  const int block_bytes = layout.block_bytes();
  const int code_bytes = layout.code_bytes();
  const int stage_bytes = kXBytes + kTileBlocks * block_bytes;
  const int col_blocks = layout.col_blocks();
  const int row_blocks = layout.row_blocks();
  const int tid = static_cast<int>(threadIdx.x);
  const int warp = tid / 32;
  const int lane = tid % 32;
  const int g = lane / 4;
  const int t = lane % 4;
  const int warp_n = warp % 4;
  const int warp_m = kSplitCols ? 0 : warp / 4;
  const int first_quarter = kSplitCols ? warp / 4 * 2 : 0;
  const int group_shift = layout.group == 32 ? 0 : layout.group == 64 ? 1 : 2;

  const auto& grouped = plan.grouped;
  const bool has_experts = grouped.tiles != nullptr;
  int begin;
  int end;
  if (has_experts) {
    wait_for_previous();
    const int tiles = *grouped.num_tiles * plan.n_tiles;
    begin =
        col_blocks *
        part_of_run(
            tiles, static_cast<int>(blockIdx.x), static_cast<int>(gridDim.x));
    end = col_blocks *
        part_of_run(
              tiles,
              static_cast<int>(blockIdx.x) + 1,
              static_cast<int>(gridDim.x));
  } else {
    const int units = plan.m_tiles * plan.n_tiles * col_blocks;
    begin = part_of_run(
        units, static_cast<int>(blockIdx.x), static_cast<int>(gridDim.x));
    end = part_of_run(
        units, static_cast<int>(blockIdx.x) + 1, static_cast<int>(gridDim.x));
  }

  const auto tile_of = [&](int idx) {
    Tile tile;
    if (has_experts) {
      tile.n_tile = idx % plan.n_tiles;
      const ExpertTile of = grouped.tiles[idx / plan.n_tiles];
      tile.expert = of.expert;
      tile.first_row = of.first;
      tile.num_rows = of.count;
    } else {
      // Tiles that share the matrix's rows are neighbours.
      tile.n_tile = idx / plan.m_tiles;
      tile.expert = 0;
      tile.first_row = idx % plan.m_tiles * TileM;
      tile.num_rows = min(TileM, args.num_rows - tile.first_row);
    }
    return tile;
  };
  // The matrix's row of blocks behind the tile's block `idx`. Gated ones are
  // two of the first half and two of the second in turn, so that a warp has
  // both.
  const auto row_block_of = [&](int n_tile, int idx) {
    if (!args.gated) {
      return min(n_tile * kTileBlocks + idx, row_blocks - 1);
    }
    const int half = row_blocks / 2;
    const int in_half =
        min(n_tile * (kTileBlocks / 2) + idx / 4 * 2 + idx % 2, half - 1);
    return idx % 4 < 2 ? in_half : half + in_half;
  };

  // Where this thread's pieces of the next stage come from; they move on by one
  // block of columns each time.
  constexpr int kRows = TileM * kChunks / kGemmThreads;
  const char* weights_from[kTileBlocks / kGemmWarps];
  const char* x_from[kRows];
  const int chunk = tid % kChunks;
  const int x_row = tid / kChunks;
  const auto aim_weights = [&](const Tile& tile, int k) {
    const char* const from = static_cast<const char*>(args.weight) +
        tile.expert * layout.n_bytes() +
        static_cast<std::size_t>(k) * static_cast<std::size_t>(block_bytes) +
        lane * 16;
#pragma unroll
    for (int i = 0; i < kTileBlocks / kGemmWarps; ++i) {
      weights_from[i] = from +
          static_cast<std::size_t>(row_block_of(
              tile.n_tile, warp * (kTileBlocks / kGemmWarps) + i)) *
              layout.row_bytes();
    }
  };
  const auto aim_x = [&](const Tile& tile, int k) {
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const int row = i * (kGemmThreads / kChunks) + x_row;
      int from_row = tile.first_row + min(row, tile.num_rows - 1);
      if (has_experts && grouped.in_rows != nullptr) {
        from_row = grouped.in_rows[from_row] / grouped.rows_per_x;
      }
      x_from[i] = static_cast<const char*>(args.x) +
          (static_cast<std::size_t>(from_row) *
               static_cast<std::size_t>(layout.cols) +
           static_cast<std::size_t>(k * kBlockCols + chunk * 8)) *
              sizeof(T);
    }
  };
  const auto fetch_weights = [&](int stage) {
    char* const to = shared + stage * stage_bytes + kXBytes + lane * 16 +
        warp * (kTileBlocks / kGemmWarps) * block_bytes;
#pragma unroll
    for (int i = 0; i < kTileBlocks / kGemmWarps; ++i) {
#pragma unroll
      for (int at = 0; at < kMostBytes; at += 512) {
        if (at + lane * 16 < block_bytes) {
          copy_async(to + i * block_bytes + at, weights_from[i] + at);
        }
      }
      weights_from[i] += block_bytes;
    }
  };
  const auto fetch_x = [&](int k, int stage) {
    char* const to = shared + stage * stage_bytes + x_row * (kBlockCols * 2) +
        // Neighbouring rows swap halves, so that lanes of both hit all banks.
        (chunk ^ (x_row & 1) << 2) * 16;
    const bool has = k * kBlockCols + chunk * 8 < layout.cols;
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      copy_or_zero(
          to + i * (kGemmThreads / kChunks) * (kBlockCols * 2),
          has ? x_from[i] : static_cast<const char*>(args.x),
          has);
      x_from[i] += kBlockCols * 2;
    }
  };

  int weights_at = begin; // the next to fetch
  int weights_k = begin % col_blocks;
  int x_at = begin;
  int x_k = weights_k;
  const auto next_weights = [&](int stage) {
    if (weights_at >= end) {
      return;
    }
    if (weights_k == col_blocks || weights_at == begin) {
      weights_k = weights_at % col_blocks;
      aim_weights(tile_of(weights_at / col_blocks), weights_k);
    }
    fetch_weights(stage);
    ++weights_at;
    ++weights_k;
  };
  const auto next_x = [&](int stage) {
    if (x_at < end) {
      if (x_k == col_blocks || x_at == begin) {
        x_k = x_at % col_blocks;
        aim_x(tile_of(x_at / col_blocks), x_k);
      }
      fetch_x(x_k, stage);
      ++x_at;
      ++x_k;
    }
    commit_copies();
  };
  // Without experts the weights depend on nothing.
  for (int stage = 0; stage < kStages - 1; ++stage) {
    next_weights(stage);
  }
  let_next_start();
  wait_for_previous();
  for (int stage = 0; stage < kStages - 1; ++stage) {
    next_x(stage);
  }

  float acc[kM][4][4] = {};
  // Sums of the second half of the columns, for the warps of the first.
  auto* const other_half =
      reinterpret_cast<float*>(shared + kStages * stage_bytes);
  const bool sums_here = !kSplitCols || warp < 4;
  const auto each_sum = [&](auto&& visit) {
#pragma unroll
    for (int m = 0; m < kM; ++m) {
#pragma unroll
      for (int n = 0; n < 4; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          visit(acc[m][n][i], (m * 4 + n) * 4 + i);
        }
      }
    }
  };
  constexpr int kSums = kM * 16;
  const auto partial_of = [&](int block, int slot) {
    return plan.partial +
        static_cast<std::size_t>(block * 2 + slot) * (kSums * kGemmThreads) +
        tid;
  };

  // Adds up what other warps and other blocks of threads have of the tile.
  // Whether it is complete then, and this block's to store.
  const auto collect = [&](int tile_idx) {
    if constexpr (kSplitCols) {
      if (!sums_here) {
        each_sum(
            [&](float& sum, int i) { other_half[i * 128 + tid - 128] = sum; });
      }
      __syncthreads();
      if (sums_here) {
        each_sum([&](float& sum, int i) { sum += other_half[i * 128 + tid]; });
      }
    }
    const int tile_begin = tile_idx * col_blocks;
    const int tile_end = tile_begin + col_blocks;
    if (begin <= tile_begin && end >= tile_end) {
      return true;
    }
    if (sums_here) {
      float* const to =
          partial_of(static_cast<int>(blockIdx.x), begin > tile_begin ? 0 : 1);
      each_sum([&](float& sum, int i) { __stcg(to + i * kGemmThreads, sum); });
    }
    __threadfence();
    __syncthreads();
    if (tid == 0) {
      arrived = atomicAdd(plan.counters + tile_idx, 1U);
    }
    __syncthreads();
    const int units = plan.m_tiles * plan.n_tiles * col_blocks;
    const int blocks = static_cast<int>(gridDim.x);
    const auto block_with = [&](int unit) {
      return static_cast<int>(
          ((static_cast<unsigned long long>(unit) + 1) *
               static_cast<unsigned>(blocks) -
           1) /
          static_cast<unsigned>(units));
    };
    const int first = block_with(tile_begin);
    const int last = block_with(tile_end - 1);
    if (arrived + 1 != static_cast<unsigned>(last - first + 1)) {
      return false;
    }
    __threadfence();
    if (sums_here) {
      each_sum([&](float& sum, int) { sum = 0; });
      for (int block = first; block <= last; ++block) {
        const float* const from = partial_of(
            block, part_of_run(units, block, blocks) > tile_begin ? 0 : 1);
        each_sum(
            [&](float& sum, int i) { sum += __ldcg(from + i * kGemmThreads); });
      }
    }
    if (tid == 0) {
      plan.counters[tile_idx] = 0;
    }
    return true;
  };

  int stage = 0;
  int k = begin % col_blocks;
  for (int at = begin; at < end; ++at) {
    wait_for_copies<kStages - 2>();
    __syncthreads();
    const int free_stage = stage == 0 ? kStages - 1 : stage - 1;
    next_weights(free_stage);
    next_x(free_stage);
    const char* const xs = shared + stage * stage_bytes;
    const char* const blocks = xs + kXBytes + warp_n * 4 * block_bytes;
    uint4 codes[4]; // of all quarters: 16 bytes a lane meet no bank twice
    if constexpr (Bits == 4) {
#pragma unroll
      for (int n = 0; n < 4; ++n) {
        codes[n] = *reinterpret_cast<const uint4*>(
            blocks + n * block_bytes + lane * 16);
      }
    }
#pragma unroll
    for (int q = 0; q < kQuarters; ++q) {
      const int quarter = first_quarter + q;
      uint4 low[kM];
      uint4 high[kM];
#pragma unroll
      for (int m = 0; m < kM; ++m) {
        const int row = warp_m * kWarpM + m * 16 + g;
        const int chunk = (quarter * 4 + t) ^ (row & 1) << 2;
        const char* const from = xs + row * (kBlockCols * 2) + chunk * 16;
        low[m] = *reinterpret_cast<const uint4*>(from);
        high[m] = *reinterpret_cast<const uint4*>(from + 8 * kBlockCols * 2);
      }
#pragma unroll
      for (int n = 0; n < 4; ++n) {
        const char* const block = blocks + n * block_bytes;
        unsigned pairs[4];
        if constexpr (Bits == 4) {
          const unsigned word = word_of(codes[n], quarter);
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            pairs[i] = nibbles<Math::half>(word, i);
          }
        } else {
          quarter_operands<Bits, Math::half>(block, lane, quarter, pairs);
        }
        if constexpr (Bits != 16) {
          const unsigned scales = *reinterpret_cast<const unsigned*>(
              block + code_bytes + (quarter >> group_shift) * 32 + g * 4);
          const bool is_bf16 = layout.type == Float::bf16;
          const auto scale =
              Math::twice(is_bf16 ? low_bf16(scales) : low_half(scales));
          const auto bias =
              Math::twice(is_bf16 ? high_bf16(scales) : high_half(scales));
          const auto offset = Math::twice(kOffset);
#pragma unroll
          for (unsigned& pair : pairs) {
            auto& w = *reinterpret_cast<typename Math::Pair*>(&pair);
            if constexpr (kOffset != 0) {
              w = __hsub2(w, offset);
            }
            w = __hfma2(w, scale, bias);
          }
        }
#pragma unroll
        for (int m = 0; m < kM; ++m) {
          Math::product(acc[m][n], low[m], high[m], pairs);
        }
      }
    }
    stage = stage + 1 == kStages ? 0 : stage + 1;
    if (++k == col_blocks || at + 1 == end) {
      if (collect(at / col_blocks) && sums_here) {
        store_sums(
            args,
            grouped,
            tile_of(at / col_blocks),
            warp_m * kWarpM,
            warp_n,
            acc);
      }
      each_sum([](float& sum, int) { sum = 0; });
      k = 0;
    }
  }
  wait_for_copies<0>();
}

template <int Bits, class T, int TileM>
void start(
    const Launcher& launcher,
    const GemvArgs& args,
    const GemmPlan& plan,
    int most_blocks) {
  launch(
      launcher,
      gemv_name,
      gemm_kernel<Bits, T, TileM>,
      dim3(static_cast<unsigned>(std::min(
          most_blocks, gemm_blocks_at_once(launcher, args.layout, TileM)))),
      kGemmThreads,
      gemm_shared_bytes(args.layout, TileM),
      args,
      plan);
}

template <int Bits, class T>
void start_tile(
    const Launcher& launcher,
    const GemvArgs& args,
    const GemmPlan& plan,
    int tile_m,
    int most_blocks) {
  switch (tile_m) {
  case 32:
    return start<Bits, T, 32>(launcher, args, plan, most_blocks);
  case 64:
    return start<Bits, T, 64>(launcher, args, plan, most_blocks);
  default:
    return start<Bits, T, 128>(launcher, args, plan, most_blocks);
  }
}

template <class T>
void start_bits(
    const Launcher& launcher,
    const GemvArgs& args,
    const GemmPlan& plan,
    int tile_m,
    int most_blocks) {
  switch (args.layout.bits) {
  case 4:
    return start_tile<4, T>(launcher, args, plan, tile_m, most_blocks);
  case 8:
    return start_tile<8, T>(launcher, args, plan, tile_m, most_blocks);
  default:
    return start_tile<16, T>(launcher, args, plan, tile_m, most_blocks);
  }
}

} // namespace

void start_gemm(
    const Launcher& launcher,
    const GemvArgs& args,
    const GemmPlan& plan,
    int tile_m,
    int most_blocks) {
  return args.type == Float::f16
      ? start_bits<__half>(launcher, args, plan, tile_m, most_blocks)
      : start_bits<__nv_bfloat16>(launcher, args, plan, tile_m, most_blocks);
}

} // namespace qwen3_mlx::cuda
