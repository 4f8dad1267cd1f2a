// SPDX-License-Identifier: MIT
// The products of warpgroup_gemm.cu: 64 rows of codes in registers by arranged
// rows in shared memory, 128 columns a step.
#pragma once

#include <cstdint>

#include "kernels/cuda/block_codes.cuh"
#include "kernels/cuda/warpgroup_plan.cuh"

namespace qwen3_mlx::cuda::warpgroup {

#if defined(QWEN3_MLX_HAS_WARPGROUPS)

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

// The arranged rows of a stage as second operands, by their chunk.
template <int N>
struct RowOperands {
  unsigned low; // the same in all threads, and known to be

  __device__ __forceinline__ explicit RowOperands(const void* rows)
      : low(__shfl_sync(
            0xffffffffU,
            // Of 18 bits; a block of a cluster has its rank above.
            (shared_address(rows) >> 4 & 0x3fffU) | N << 16,
            0)) {}
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
// Sums of as many groups are kept apart as registers allow.
template <int Bits, int Group, int N, int kBuffers = N == 32 ? 1 : 2>
class ExactSteps {
  using Blocks = RowBlocks<Bits, Group>;
  static constexpr int kGroups = Blocks::kGroups;
  static constexpr int kQuarters = 4 / kGroups;

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

} // namespace qwen3_mlx::cuda::warpgroup
