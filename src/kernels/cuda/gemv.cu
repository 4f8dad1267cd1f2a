// SPDX-License-Identifier: MIT
// Products of few rows with a packed matrix, at the speed of its memory.
//
// One block of threads a multiprocessor; it owns whole rows of the matrix, and
// its warps share out the blocks of those rows as one run, cut into equal
// parts. Each warp streams its part through a ring of its own in shared memory,
// which it fills before it waits for the kernel ahead: weights depend on
// nothing. The activations lie in shared memory as bfloat16, and where that is
// not exact as a sum of two, the second in the rows that a product of 16 rows
// leaves free. Codes are exact in bfloat16, so all that is rounded are the
// float32 sums and the output. Partial sums of warps are added in the order of
// warps: a row's sum has one order whatever the number of rows.
#include <type_traits>

#include "kernels/cuda/block_codes.cuh"
#include "kernels/cuda/device_code.cuh"
#include "kernels/cuda/gemv_plan.h"

namespace qwen3_mlx::cuda {
namespace {

using Shape = GemvShape;
using Operands = GemvOperands;
constexpr int kWarps = kGemvWarps;
constexpr int kThreads = kWarps * 32;
constexpr int kPadding = kGemvPadding;

__device__ __forceinline__ int part(int total, int idx, int count) {
  return static_cast<int>(
      static_cast<unsigned>(total) * static_cast<unsigned>(idx) /
      static_cast<unsigned>(count));
}

template <bool Half>
__device__ __forceinline__ unsigned pack_operands(float low, float high) {
  if constexpr (Half) {
    const __half2 pair = __floats2half2_rn(low, high);
    return *reinterpret_cast<const unsigned*>(&pair);
  }
  return pack_bf16(low, high);
}

template <bool Half>
__device__ __forceinline__ void product(
    float (&c)[4],
    unsigned a0,
    unsigned a1,
    unsigned a2,
    unsigned a3,
    unsigned b0,
    unsigned b1) {
  if constexpr (Half) {
    multiply_add_half(c, a0, a1, a2, a3, b0, b1);
  } else {
    multiply_add(c, a0, a1, a2, a3, b0, b1);
  }
}

template <int Bits, bool Half, CodeForm Meaning>
using CodesOf = std::conditional_t<
    Meaning == CodeForm::affine,
    Codes<Bits, Half>,
    SmallFloats<Meaning, Half>>;

template <int Bits, int Group, Operands Form, Float Scales, CodeForm Meaning>
__global__ void __launch_bounds__(kThreads, 1)
    gemv_kernel(const GemvArgs args, const Shape shape) {
  constexpr int kStages = gemv_stages<Bits>;
  constexpr bool Half = Form == Operands::half;
  constexpr bool kSplit = Form == Operands::split;
  constexpr int kGroups = Group == 0 ? 1 : kBlockCols / Group;
  constexpr int kQuarters = 4 / kGroups; // of a group
  constexpr int kCodeBytes = kBlockRows * kBlockCols / 8 * Bits;
  constexpr int kBlockBytes = kCodeBytes + (Group == 0 ? 0 : kGroups * 32);
  // What the operands of codes have too much.
  constexpr bool kAffine = Group != 0 && Meaning == CodeForm::affine;
  constexpr float kOffset = !kAffine ? 0.0F
      : Half                         ? 1024.0F
      : Bits == 4                    ? 128.0F
                                     : 0.0F;

  extern __shared__ __align__(16) char shared[];
  __shared__ int first_own[kWarps]; // the rows of blocks a warp meets
  __shared__ int last_own[kWarps];
  const int tid = static_cast<int>(threadIdx.x);
  const int warp = tid / 32;
  const int lane = tid % 32;
  const int group_row = lane / 4;
  const int group_col = lane % 4;
  const int M = shape.num_rows;
  const int K = args.layout.padded_cols();
  const int row_length = K + kPadding;
  constexpr int copies = kSplit ? 2 : 1;
  const int col_blocks = args.layout.col_blocks();

  char* const ring =
      shared + static_cast<std::size_t>(warp * kStages) * kBlockBytes;
  auto* const xs = reinterpret_cast<__nv_bfloat16*>(
      shared + static_cast<std::size_t>(kWarps * kStages) * kBlockBytes);
  auto* const group_sums =
      reinterpret_cast<float*>(xs + copies * M * row_length);
  const int num_groups = Group == 0 ? 0 : K / Group;
  float* const squares = group_sums + M * num_groups; // [M][kWarps]
  float* const partial = squares + M * kWarps;        // [kWarps][slots][M][8]

  // The rows of blocks that are this block's, numbered 0 .. count - 1; gated
  // ones are a row of the first half and one of the second in turn.
  const int unit_begin = part(
      shape.units, static_cast<int>(blockIdx.x), static_cast<int>(gridDim.x));
  const int unit_end = part(
      shape.units,
      static_cast<int>(blockIdx.x) + 1,
      static_cast<int>(gridDim.x));
  const int per_unit = args.gated ? 2 : 1;
  const int count = (unit_end - unit_begin) * per_unit;
  const int total = count * col_blocks;
  const int begin = part(total, warp, kWarps);
  const int end = part(total, warp + 1, kWarps);

  const char* weight = static_cast<const char*>(args.weight);
  const auto* x = static_cast<const char*>(args.x);
  char* y = static_cast<char*>(args.y);
  const int out_cols = args.gated ? args.layout.rows / 2 : args.layout.rows;
  const std::size_t x_row_bytes =
      static_cast<std::size_t>(args.layout.cols) * size_of(args.type);
  if (args.experts != nullptr) {
    wait_for_previous();
    const unsigned pair = blockIdx.y;
    const unsigned expert =
        min(args.experts[pair], static_cast<unsigned>(args.num_experts - 1));
    weight += expert * args.layout.n_bytes();
    x += pair / static_cast<unsigned>(args.rows_per_x) * x_row_bytes;
    y += static_cast<std::size_t>(pair) * static_cast<unsigned>(out_cols) *
        size_of(args.type);
  }

  // The next block to fetch: its row among this block's own, its column.
  int fetch_left = end - begin;
  int fetch_own = begin / col_blocks;
  int fetch_col = begin - fetch_own * col_blocks;
  const auto row_of = [&](int own) {
    const int row = args.gated ? unit_begin + own / 2 + own % 2 * shape.units
                               : unit_begin + own;
    return weight + static_cast<std::size_t>(row) * args.layout.row_bytes();
  };
  const char* fetch_from = row_of(fetch_own) +
      static_cast<std::size_t>(fetch_col) * kBlockBytes + lane * 16;
  const auto fetch = [&](int stage) {
    if (fetch_left > 0) {
      char* to = ring + stage * kBlockBytes + lane * 16;
#pragma unroll
      for (int at = 0; at < kBlockBytes; at += 512) {
        if (at + 512 <= kBlockBytes || at + lane * 16 < kBlockBytes) {
          copy_async(to + at, fetch_from + at);
        }
      }
      --fetch_left;
      fetch_from += kBlockBytes;
      if (++fetch_col == col_blocks) {
        fetch_col = 0;
        fetch_from = row_of(++fetch_own) + lane * 16;
      }
    }
    commit_copies();
  };
  for (int stage = 0; stage < kStages; ++stage) {
    fetch(stage);
  }
  let_next_start();
  const auto load_chunk = [&](const void* from, int i, float(&to)[8]) {
    if (i * 8 < args.layout.cols) {
      load_eight(from, args.type, static_cast<std::size_t>(i) * 8, to);
    } else {
#pragma unroll
      for (float& value : to) {
        value = 0;
      }
    }
  };
  float norm[8] = {};
  if (args.norm != nullptr) {
    load_chunk(args.norm, tid, norm);
  }
  wait_for_previous();
  float v[8] = {};

  const int chunks = K / 8;
  const int padded_chunks = (chunks + 31) / 32 * 32;
  if (args.norm != nullptr) {
    for (int m = 0; m < M; ++m) {
      float sum = 0;
      for (int i = tid; i < chunks; i += kThreads) {
        load_chunk(x + m * x_row_bytes, i, v);
#pragma unroll
        for (int j = 0; j < 8; ++j) {
          sum += v[j] * v[j];
        }
      }
      sum = warp_sum(sum);
      if (lane == 0) {
        squares[m * kWarps + warp] = sum;
      }
    }
    __syncthreads();
  }
  const bool kept = M == 1 && args.norm != nullptr && chunks <= kThreads;
  for (int m = 0; m < M; ++m) {
    float factor = 1;
    if (args.norm != nullptr) {
      float sum = 0;
#pragma unroll
      for (int w = 0; w < kWarps; ++w) {
        sum += squares[m * kWarps + w];
      }
      factor =
          rsqrtf(sum / static_cast<float>(args.layout.cols) + args.norm_eps);
    }
    for (int i = tid; i < padded_chunks; i += kThreads) {
      if (!kept) {
        load_chunk(x + m * x_row_bytes, i, v);
      }
      if (args.norm != nullptr) {
        if (i != tid) {
          load_chunk(args.norm, i, norm);
        }
#pragma unroll
        for (int j = 0; j < 8; ++j) {
          v[j] *= factor * norm[j];
        }
        if (i != tid) {
          load_chunk(args.norm, tid, norm);
        }
      }
      unsigned pairs[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        pairs[j] = pack_operands<Half>(v[2 * j], v[2 * j + 1]);
      }
      if (i < chunks) {
        *reinterpret_cast<uint4*>(xs + m * row_length + i * 8) =
            make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
      }
      if constexpr (kSplit) {
        unsigned rest[4];
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          rest[j] = pack_bf16(
              v[2 * j] - low_bf16(pairs[j]),
              v[2 * j + 1] - high_bf16(pairs[j]));
        }
        if (i < chunks) {
          *reinterpret_cast<uint4*>(xs + (M + m) * row_length + i * 8) =
              make_uint4(rest[0], rest[1], rest[2], rest[3]);
        }
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          v[2 * j] = low_bf16(pairs[j]) + low_bf16(rest[j]);
          v[2 * j + 1] = high_bf16(pairs[j]) + high_bf16(rest[j]);
        }
      }
      if constexpr (kAffine) {
        // Of the operands, rounded as they are: what codes have too much must
        // cancel.
        if constexpr (Half) {
#pragma unroll
          for (int j = 0; j < 4; ++j) {
            v[2 * j] = low_half(pairs[j]);
            v[2 * j + 1] = high_half(pairs[j]);
          }
        }
        float sum =
            ((v[0] + v[1]) + (v[2] + v[3])) + ((v[4] + v[5]) + (v[6] + v[7]));
#pragma unroll
        for (int offset = 1; offset < Group / 8; offset *= 2) {
          sum += __shfl_xor_sync(0xffffffffU, sum, offset);
        }
        if (i < chunks && i % (Group / 8) == 0) {
          group_sums[m * num_groups + i / (Group / 8)] = sum;
        }
      }
    }
  }
  if (lane == 0) {
    first_own[warp] = begin / col_blocks;
    last_own[warp] = begin < end ? (end - 1) / col_blocks : -1;
  }
  __syncthreads();

  const bool has_row = group_row < M;
  // Rows of a product know nothing of each other: threads without a row of x
  // compute with the last one's, and what they find is dropped.
  const int x_idx = min(group_row, M - 1);
  const __nv_bfloat16* x_at = xs + x_idx * row_length + group_col * 8;
  const int rest_offset = M * row_length;
  const float* const sums_row = group_sums + x_idx * num_groups;

  float sum0 = 0;
  float sum1 = 0;
  int col_block = begin % col_blocks;
  int slot = 0;
  int stage = 0;
  const auto leave = [&] {
    if (has_row) {
      float* to =
          partial + ((warp * shape.slots + slot) * M + group_row) * kBlockRows;
      to[group_col * 2] = sum0;
      to[group_col * 2 + 1] = sum1;
    }
    sum0 = sum1 = 0;
    ++slot;
  };
  for (int idx = begin; idx < end; ++idx) {
    // Each step commits one group of copies: all but the newest have arrived.
    wait_for_copies<kStages - 1>();
    __syncwarp();
    const char* const block = ring + stage * kBlockBytes;
    const CodesOf<Bits, Half, Meaning> codes(block, lane);
    const __nv_bfloat16* const x_block = x_at + col_block * kBlockCols;
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
      // A thread's four registers of x are one first operand for both
      // products: the pairs 0 and 2 are its row, 1 and 3 are row + 8. Each
      // product has the codes of one of them, and its other row is dropped.
      float c[4] = {};
      float d[4] = {};
#pragma unroll
      for (int q = 0; q < kQuarters; ++q) {
        const int quarter = g * kQuarters + q;
        const auto* const at = x_block + quarter * 32;
        const uint4 a = *reinterpret_cast<const uint4*>(at);
        unsigned pairs[4];
        codes.operands(quarter, pairs);
        product<Half>(c, a.x, a.y, a.z, a.w, pairs[0], pairs[2]);
        product<Half>(d, a.x, a.y, a.z, a.w, pairs[1], pairs[3]);
        if constexpr (kSplit) {
          const uint4 rest = *reinterpret_cast<const uint4*>(at + rest_offset);
          product<Half>(c, rest.x, rest.y, rest.z, rest.w, pairs[0], pairs[2]);
          product<Half>(d, rest.x, rest.y, rest.z, rest.w, pairs[1], pairs[3]);
        }
      }
      const float product0 = c[0] + d[2];
      const float product1 = c[1] + d[3];
      if constexpr (Group == 0) {
        sum0 += product0;
        sum1 += product1;
      } else if constexpr (Meaning == CodeForm::e2m1) {
        sum0 = fmaf(e2m1_lift<Half>, product0, sum0);
        sum1 = fmaf(e2m1_lift<Half>, product1, sum1);
      } else if constexpr (Meaning == CodeForm::e4m3) {
        const uint2 scales = *reinterpret_cast<const uint2*>(
            block + kCodeBytes + g * 32 + group_col * 8);
        constexpr float kLift = e4m3_lift<Half>;
        sum0 = fmaf(low_bf16(scales.x), kLift * product0, sum0);
        sum1 = fmaf(low_bf16(scales.y), kLift * product1, sum1);
      } else {
        const uint2 scales = *reinterpret_cast<const uint2*>(
            block + kCodeBytes + g * 32 + group_col * 8);
        const float x_sum = sums_row[col_block * kGroups + g];
        constexpr bool is_bf16 = Scales == Float::bf16;
        const float s0 = is_bf16 ? low_bf16(scales.x) : low_half(scales.x);
        const float s1 = is_bf16 ? low_bf16(scales.y) : low_half(scales.y);
        const float b0 = is_bf16 ? high_bf16(scales.x) : high_half(scales.x);
        const float b1 = is_bf16 ? high_bf16(scales.y) : high_half(scales.y);
        sum0 = fmaf(s0, fmaf(-kOffset, x_sum, product0), sum0);
        sum1 = fmaf(s1, fmaf(-kOffset, x_sum, product1), sum1);
        sum0 = fmaf(b0, x_sum, sum0);
        sum1 = fmaf(b1, x_sum, sum1);
      }
    }
    __syncwarp();
    fetch(stage);
    stage = stage + 1 == kStages ? 0 : stage + 1;
    if (++col_block == col_blocks) {
      col_block = 0;
      leave();
    }
  }
  if (col_block != 0 && begin < end) {
    leave();
  }
  wait_for_copies<0>();
  __syncthreads();

  // The sum of row `row` of the rows of this block, for row m of x.
  const auto finish = [&](int m, int row) {
    const int own = row / kBlockRows;
    float sum = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      if (own >= first_own[w] && own <= last_own[w]) {
        sum += partial
            [((w * shape.slots + own - first_own[w]) * M + m) * kBlockRows +
             row % kBlockRows];
      }
    }
    return sum;
  };
  const int units = unit_end - unit_begin;
  for (int i = tid; i < units * kBlockRows * M; i += kThreads) {
    const int m = i / (units * kBlockRows);
    const int r = i % (units * kBlockRows);
    const int out_col = unit_begin * kBlockRows + r;
    if (out_col >= out_cols) {
      continue;
    }
    float value;
    if (args.gated) {
      const int own = r / kBlockRows * 2 * kBlockRows + r % kBlockRows;
      float gate = finish(m, own);
      float up = finish(m, own + kBlockRows);
      if (args.bias != nullptr) {
        gate +=
            load_float(args.bias, args.type, static_cast<std::size_t>(out_col));
        up += load_float(
            args.bias, args.type, static_cast<std::size_t>(out_cols + out_col));
      }
      value = gate / (1.0F + __expf(-gate)) * up;
    } else {
      value = finish(m, r);
      if (args.bias != nullptr) {
        value +=
            load_float(args.bias, args.type, static_cast<std::size_t>(out_col));
      }
    }
    const std::size_t at =
        static_cast<std::size_t>(m) * static_cast<std::size_t>(out_cols) +
        static_cast<std::size_t>(out_col);
    if (args.residual != nullptr) {
      value += load_float(args.residual, args.type, at);
    }
    store_float(y, args.type, at, value);
  }
}

template <int Bits, int Group, CodeForm Meaning = CodeForm::affine>
void start(
    const Launcher& launcher,
    const GemvArgs& args,
    Shape shape,
    dim3 grid,
    std::size_t shared_bytes) {
  const auto with = [&]<Operands Form, Float Scales>() {
    launch(
        launcher,
        gemv_name,
        gemv_kernel<Bits, Group, Form, Scales, Meaning>,
        grid,
        kThreads,
        shared_bytes,
        args,
        shape);
  };
  const auto with_form = [&]<Operands Form>() {
    if constexpr (Meaning == CodeForm::affine) {
      if (args.layout.type == Float::f16) {
        return with.template operator()<Form, Float::f16>();
      }
    }
    with.template operator()<Form, Float::bf16>();
  };
  switch (gemv_operands(args)) {
  case Operands::bf16:
    return with_form.template operator()<Operands::bf16>();
  case Operands::half:
    return with_form.template operator()<Operands::half>();
  case Operands::split:
    return with_form.template operator()<Operands::split>();
  }
}

} // namespace

void start_gemv(
    const Launcher& launcher,
    const GemvArgs& args,
    Shape shape,
    dim3 grid,
    std::size_t shared_bytes) {
  const auto& layout = args.layout;
  switch (layout.form) {
  case CodeForm::e4m3:
    return start<8, 32, CodeForm::e4m3>(
        launcher, args, shape, grid, shared_bytes);
  case CodeForm::e2m1:
    return start<4, 32, CodeForm::e2m1>(
        launcher, args, shape, grid, shared_bytes);
  case CodeForm::affine:
    break;
  }
  const auto with_bits = [&]<int Bits>() {
    switch (layout.group) {
    case 32:
      return start<Bits, 32>(launcher, args, shape, grid, shared_bytes);
    case 64:
      return start<Bits, 64>(launcher, args, shape, grid, shared_bytes);
    default:
      return start<Bits, 128>(launcher, args, shape, grid, shared_bytes);
    }
  };
  switch (layout.bits) {
  case 4:
    return with_bits.template operator()<4>();
  case 8:
    return with_bits.template operator()<8>();
  default:
    return start<16, 0>(launcher, args, shape, grid, shared_bytes);
  }
}

} // namespace qwen3_mlx::cuda
