// SPDX-License-Identifier: MIT
#include "kernels/cuda/arranged_rows.h"

#include "kernels/cuda/arranged_sums.cuh"

namespace qwen3_mlx::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kThreads = kWarps * 32;

// A block of threads takes eight rows of a tile; a warp 128 of their columns at
// a time, a lane one chunk of each 32 columns of one row.
__global__ void __launch_bounds__(kThreads)
    arrange_kernel(const ArrangeArgs args) {
  __shared__ float factors[8];
  let_next_start();
  const auto& form = args.form;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int row = lane % 8;
  const int p = lane / 8;
  const int k = static_cast<int>(blockIdx.y) * kWarps + warp;
  const auto cols = static_cast<std::size_t>(args.layout.cols);
  const auto* const norm = static_cast<const __nv_bfloat16*>(args.norm);
  const auto pair_of = [&](const __nv_bfloat16* from, int q, int t) {
    const auto col =
        static_cast<std::size_t>(k * kBlockCols + q * 32 + t * 8 + p * 2);
    return col < cols ? *reinterpret_cast<const unsigned*>(from + col) : 0U;
  };
  unsigned weights[4][4] = {}; // depend on nothing
  if (norm != nullptr) {
#pragma unroll
    for (int q = 0; q < 4; ++q) {
#pragma unroll
      for (int t = 0; t < 4; ++t) {
        weights[q][t] = pair_of(norm, q, t);
      }
    }
  }
  wait_for_previous();
  const int eights = form.tile_rows / 8;
  const int tile_idx = static_cast<int>(blockIdx.x) / eights;
  const int first = static_cast<int>(blockIdx.x) % eights * 8; // in the tile
  int tile_row = tile_idx * form.tile_rows;
  int count = args.num_rows - tile_row;
  if (args.grouped.tiles != nullptr) {
    if (tile_idx >= *args.grouped.num_tiles) {
      return;
    }
    const ExpertTile tile = args.grouped.tiles[tile_idx];
    tile_row = tile.first;
    count = tile.count;
  }
  if (first >= count) {
    return; // nobody looks at what comes of these rows
  }
  const auto row_of = [&](int in_eight) {
    int of = tile_row + min(first + in_eight, count - 1);
    if (args.grouped.tiles != nullptr && args.grouped.in_rows != nullptr) {
      of = args.grouped.in_rows[of] / args.grouped.rows_per_x;
    }
    return static_cast<const __nv_bfloat16*>(args.x) +
        static_cast<std::size_t>(of) * cols;
  };
  const bool has_row = first + row < count;
  const auto* const x = row_of(row);
  unsigned pairs[4][4];
#pragma unroll
  for (int q = 0; q < 4; ++q) {
#pragma unroll
    for (int t = 0; t < 4; ++t) {
      pairs[q][t] = has_row ? pair_of(x, q, t) : 0U;
    }
  }
  if (norm != nullptr) {
    const auto* const of_warp = row_of(warp);
    float sum = 0;
#pragma unroll 8
    for (std::size_t i = static_cast<std::size_t>(lane) * 8; i < cols;
         i += 256) {
      float v[8];
      load_eight(of_warp, Float::bf16, i, v);
#pragma unroll
      for (const float value : v) {
        sum += value * value;
      }
    }
    sum = warp_sum(sum);
    if (lane == 0) {
      factors[warp] =
          rsqrtf(sum / static_cast<float>(args.layout.cols) + args.norm_eps);
    }
    __syncthreads();
  }
  if (k >= form.col_blocks) {
    return;
  }
  const float factor = norm != nullptr ? factors[row] : 1.0F;
  char* const to = static_cast<char*>(args.to) +
      static_cast<std::size_t>(tile_idx) * form.tile_bytes() +
      static_cast<std::size_t>(k) *
          static_cast<std::size_t>(form.block_bytes()) +
      (first + row) * 16;
  const int chunk_bytes = form.tile_rows * 16;
  const int group_quarters = args.layout.group / 32;
  float quarter_sums[4];
#pragma unroll
  for (int q = 0; q < 4; ++q) {
    float sum = 0;
#pragma unroll
    for (int t = 0; t < 4; ++t) {
      unsigned& pair = pairs[q][t];
      if (norm != nullptr) {
        const unsigned weight = weights[q][t];
        pair = pack_bf16(
            low_bf16(pair) * factor * low_bf16(weight),
            high_bf16(pair) * factor * high_bf16(weight));
      }
      sum += low_bf16(pair) + high_bf16(pair);
    }
    *reinterpret_cast<uint4*>(to + (q * 4 + p) * chunk_bytes) =
        make_uint4(pairs[q][0], pairs[q][1], pairs[q][2], pairs[q][3]);
    // Of the four chunks.
    sum += __shfl_xor_sync(0xffffffffU, sum, 8);
    sum += __shfl_xor_sync(0xffffffffU, sum, 16);
    quarter_sums[q] = sum;
  }
  if (!form.has_sums || p >= 2) {
    return;
  }
  const float offset = code_offset(args.layout.bits);
  const auto both = [&](float part) { return sum_pair(offset, part); };
  unsigned out[4] = {};
  if (group_quarters == 1) {
#pragma unroll
    for (int q = 0; q < 4; ++q) {
      const Parts parts(quarter_sums[q]);
      out[q] = both(p == 0 ? parts.high : parts.middle);
    }
  } else if (group_quarters == 2) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const Parts parts(quarter_sums[2 * i] + quarter_sums[2 * i + 1]);
      out[2 * i] = both(p == 0 ? parts.high : parts.low);
      out[2 * i + 1] = p == 0 ? both(parts.middle) : 0U;
    }
  } else {
    const Parts parts(
        (quarter_sums[0] + quarter_sums[1]) +
        (quarter_sums[2] + quarter_sums[3]));
    if (p == 0) {
      out[0] = both(parts.high);
      out[1] = both(parts.middle);
      out[2] = both(parts.low);
    }
  }
  *reinterpret_cast<uint4*>(to + (16 + p) * chunk_bytes) =
      make_uint4(out[0], out[1], out[2], out[3]);
}

} // namespace

void arrange_rows(
    const Launcher& launcher,
    const ArrangeArgs& args,
    int max_tiles) {
  const int rows = args.form.tile_rows;
  const int tiles = args.grouped.tiles != nullptr
      ? max_tiles
      : (args.num_rows + rows - 1) / rows;
  launch(
      launcher,
      "arrange_rows",
      arrange_kernel,
      dim3(
          static_cast<unsigned>(tiles * (rows / 8)),
          static_cast<unsigned>((args.form.col_blocks + kWarps - 1) / kWarps)),
      kThreads,
      0,
      args);
}

} // namespace qwen3_mlx::cuda
