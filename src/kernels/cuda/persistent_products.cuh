// SPDX-License-Identifier: MIT
// The products of persistent_step.cu: a row with a packed matrix, 16 rows of it
// at a time as the first operand of tensor cores.
#pragma once

#include "kernels/cuda/block_codes.cuh"
#include "kernels/cuda/persistent_operands.cuh"

namespace qwen3_mlx::cuda::persistent {

// Who has left sums of a pair of rows: warps first to last, the first of them
// in `slot`, the others in their first one. Where rows are cut, the block's
// part.
struct PairSums {
  unsigned char first;
  unsigned char last;
  unsigned char slot;
  unsigned char part;
};

#if defined(QWEN3_MLX_HAS_WARPGROUPS)

// The sums of a pair of rows.
struct PairSum {
  float first = 0;
  float second = 0;
};

// What a thread holds of a block, and its codes of one quarter as two words of
// operands.
template <int Bits>
struct CodeWords {
  uint4 words[Bits / 4];

  __device__ __forceinline__ CodeWords(const char* block, unsigned lane) {
#pragma unroll
    for (int i = 0; i < Bits / 4; ++i) {
      words[i] = reinterpret_cast<const uint4*>(block + i * 512)[lane];
    }
  }
  __device__ __forceinline__ uint2 operands(int quarter) const {
    if constexpr (Bits == 4) {
      const unsigned word = word_of(words[0], quarter);
      return {word & 0x0f0f0f0fU, word >> 4 & 0x0f0f0f0fU};
    } else {
      const uint4& four = words[quarter / 2];
      return quarter % 2 == 0 ? uint2{four.x, four.y} : uint2{four.z, four.w};
    }
  }
};

// c = before + codes [16, 32] x digits [32, 8]
__device__ __forceinline__ void multiply_codes(
    unsigned (&c)[4],
    uint2 low,
    uint2 high,
    uint2 digits,
    const unsigned (&before)[4]) {
  asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 "
      "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%11,%12,%13};"
      : "=r"(c[0]), "=r"(c[1]), "=r"(c[2]), "=r"(c[3])
      : "r"(low.x),
        "r"(high.x),
        "r"(low.y),
        "r"(high.y),
        "r"(digits.x),
        "r"(digits.y),
        "r"(before[0]),
        "r"(before[1]),
        "r"(before[2]),
        "r"(before[3]));
}

// The same of elements: a cell, whose weights are bfloat16.
__device__ __forceinline__ void add_plain_cell(
    const char* first,
    const char* second,
    const uint4* x,
    PairSum& sum) {
  const unsigned lane = threadIdx.x % 32;
  const CodeWords<16> low(first, lane);
  const CodeWords<16> high(second, lane);
  // Even columns of the second operand are what bfloat16 holds, odd ones the
  // rest.
  const uint4* const of_lane = x + lane % 4 * 2 + lane / 4 % 2;
  float c[4] = {};
  float d[4] = {};
#pragma unroll
  for (int quarter = 0; quarter < 4; ++quarter) {
    const uint4 a0 = low.words[quarter];
    const uint4 a1 = high.words[quarter];
    const uint4 b = of_lane[quarter * 8];
    multiply_add(c, a0.x, a1.x, a0.y, a1.y, b.x, b.y);
    multiply_add(d, a0.z, a1.z, a0.w, a1.w, b.z, b.w);
  }
  sum.first += c[0] + c[1] + (d[0] + d[1]);
  sum.second += c[2] + c[3] + (d[2] + d[3]);
}

// Adds neighbouring cells: their blocks, operands, groups of these. Several at
// once, so that one's products hide the time of another's.
template <int Bits, int Group, int Cells>
__device__ __forceinline__ void add_cells(
    const char* first,
    const char* second,
    const uint4* x,
    const OperandGroup* groups,
    PairSum& sum) {
  using F = Form<Bits, Group>;
  const unsigned lane = threadIdx.x % 32;
  const unsigned g = lane / 4;
  // Whole numbers, that much too large: the lowest bits of floats.
  unsigned zeros[4] = {kWholeBits, kWholeBits, kWholeBits, kWholeBits};
  unsigned c[Cells * F::kGroups][4];
  // Even columns of the second operand are high digits, odd ones low.
  const auto* const digits =
      reinterpret_cast<const uint2*>(x) + lane % 4 * 2 + g % 2;
#pragma unroll
  for (int cell = 0; cell < Cells; ++cell) {
    const CodeWords<Bits> low(first + cell * F::kBlockBytes, lane);
    const CodeWords<Bits> high(second + cell * F::kBlockBytes, lane);
#pragma unroll
    for (int quarter = 0; quarter < 4; ++quarter) {
      auto& to = c[cell * F::kGroups + quarter / F::kQuarters];
      multiply_codes(
          to,
          low.operands(quarter),
          high.operands(quarter),
          digits[(cell * 4 + quarter) * 8],
          quarter % F::kQuarters == 0 ? zeros : to);
    }
  }
#pragma unroll
  for (int at = 0; at < Cells * F::kGroups; ++at) {
    const unsigned scales = static_cast<unsigned>(
                                at / F::kGroups * F::kBlockBytes +
                                F::kCodeBytes + at % F::kGroups * 32) +
        g * 4;
    const unsigned of_first =
        *reinterpret_cast<const unsigned*>(first + scales);
    const unsigned of_second =
        *reinterpret_cast<const unsigned*>(second + scales);
    const OperandGroup group = groups[at];
    const auto whole = [](unsigned high, unsigned low) {
      return fmaf(
          __uint_as_float(high) - kWhole, 256, __uint_as_float(low) - kWhole);
    };
    sum.first = fmaf(
        low_bf16(of_first) * group.scale, whole(c[at][0], c[at][1]), sum.first);
    sum.first = fmaf(high_bf16(of_first), group.sum, sum.first);
    sum.second = fmaf(
        low_bf16(of_second) * group.scale,
        whole(c[at][2], c[at][3]),
        sum.second);
    sum.second = fmaf(high_bf16(of_second), group.sum, sum.second);
  }
}

// A warp's cells out of its ring into partial sums.
template <int Bits, int Group, bool HasExperts>
__device__ __forceinline__ void multiply_cells(
    const OwnShape& own,
    const WarpShare& share,
    const ProductRoom& room,
    char* ring,
    std::uint64_t* full,
    int num_stages,
    int& stage,
    unsigned& parity,
    Fetcher<Bits, Group, HasExperts>& fetcher) {
  using F = Form<Bits, Group>;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int col_blocks = own.col_blocks;
  const int run_blocks = own.run_blocks;
  int col = share.col;
  int run = share.run;
  int left = share.count;
  float* to = room.partial + warp * own.shape.slots * kPairRows + lane / 4;
  PairSum sum;
  if (left == 0 && lane % 4 == 0) { // others may add what is here
    to[0] = 0;
    to[kBlockRows] = 0;
  }
#pragma unroll 1
  while (left > 0) {
    const int count = min(min(F::kChunkCells, left), run);
    wait_for(full + stage, parity);
    const char* const blocks = ring + stage * F::kChunkBytes;
    const char* const second = blocks + F::kChunkCells * F::kBlockBytes;
    const uint4* const x = room.x + col * (kBlockCols * F::kOperandBytes / 16);
    [[maybe_unused]] const OperandGroup* const groups =
        room.groups + col * F::kGroups;
    if constexpr (F::kIsPlain) {
      add_plain_cell(blocks, second, x, sum);
    } else if (count == F::kChunkCells) {
      add_cells<Bits, Group, F::kChunkCells>(blocks, second, x, groups, sum);
    } else {
      add_cells<Bits, Group, 1>(blocks, second, x, groups, sum);
    }
    __syncwarp();
    fetcher.release();
    if (++stage == num_stages) {
      stage = 0;
      parity ^= 1U;
    }
    left -= count;
    col += count;
    run -= count;
    if (run == 0) {
      run = run_blocks;
    }
    if (col == col_blocks || left == 0) {
      if (lane % 4 == 0) {
        to[0] = sum.first;
        to[kBlockRows] = sum.second;
      }
      to += kPairRows;
      sum = {};
      col = 0;
    }
  }
}

// Adds up what the warps left, in their order, and hands on the output.
__device__ __forceinline__ void finish_product(
    const StepPhase& phase,
    const OwnShape& own,
    const PairSums* pair_sums,
    const ProductRoom& room,
    unsigned flag,
    void* logits) {
  const int tid = static_cast<int>(threadIdx.x);
  const StepShape& shape = own.shape;
  const bool is_gated = shape.is_gated();
  const int per_pair = is_gated ? kBlockRows : kPairRows;
  const int rows = is_gated ? shape.rows / 2 : shape.rows;
  const int total = own.num_pairs * per_pair;
  const auto* const bias = static_cast<const __nv_bfloat16*>(phase.bias);
#pragma unroll 1
  for (int i = tid; i < (total + 31) / 32 * 32; i += kThreads) {
    const bool exists = i < total;
    const int pair = exists ? is_gated ? i / kBlockRows : i / kPairRows : 0;
    const int row = i % per_pair;
    const int at = (own.first_pair + pair) * per_pair + row;
    const PairSums from = pair_sums[own.pair_sums + pair];
    const int next = shape.slots * kPairRows; // the next warp's
    const float* sums = room.partial + from.first * next + row;
    float value = sums[from.slot * kPairRows];
    float up = is_gated ? sums[from.slot * kPairRows + kBlockRows] : 0;
#pragma unroll 2
    for (int w = from.first + 1; w <= from.last; ++w) {
      sums += next;
      value += sums[0];
      if (is_gated) {
        up += sums[kBlockRows];
      }
    }
    const bool is_row = exists && at < rows;
    if (bias != nullptr && is_row) {
      value += __bfloat162float(bias[at]);
      if (is_gated) {
        up += __bfloat162float(bias[rows + at]);
      }
    }
    switch (shape.output) {
    case StepOutput::plain:
      if (is_row) {
        put_word(phase.out + at, __float_as_uint(value), flag);
      }
      break;
    case StepOutput::logits:
      if (is_row) {
        static_cast<__nv_bfloat16*>(logits)[at] = __float2bfloat16(value);
      }
      break;
    case StepOutput::gated: {
      value = value / (1.0F + __expf(-value)) * up;
      const float other = __shfl_down_sync(0xffffffffU, value, 1);
      if (is_row && at % 2 == 0) {
        put_word(phase.out + at / 2, pack_bf16(value, other), flag);
      }
      break;
    }
    case StepOutput::parts: {
      const float other = __shfl_down_sync(0xffffffffU, value, 1);
      if (exists && at % 2 == 0) {
        const int length = shape.part_length() / 2;
        FlaggedWord* const to = phase.out + at / 2;
        int part = from.part & 0x7f;
        put_part(to + part * length, value, other, flag);
        if ((from.part & 0x80) != 0) { // the last block of the row
          while (++part < shape.num_parts) {
            put_part(to + part * length, 0, 0, flag);
          }
        }
      }
      break;
    }
    }
  }
}

#endif

} // namespace qwen3_mlx::cuda::persistent
