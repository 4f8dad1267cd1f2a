// SPDX-License-Identifier: MIT
// Who a token goes to, in persistent_step.cu: blocks of threads multiply eight
// rows of the router each, and all of them look at all logits.
#pragma once

#include "kernels/cuda/persistent_operands.cuh"

namespace qwen3_mlx::cuda::persistent {

// Logits that threads compare in fours, four threads a logit.
constexpr int kLogitPad = 16;

QWEN3_MLX_HOST_DEVICE constexpr std::size_t padded_logits(int num_experts) {
  return static_cast<std::size_t>((num_experts + kLogitPad - 1) / kLogitPad) *
      kLogitPad;
}

// Of shared memory: eight rows of the router, their sums by warp, and all
// logits.
constexpr std::size_t router_bytes(const StepRouting& routing) {
  return 16 + routing.router.row_bytes() +
      sizeof(float) *
      (kStepWarps * kBlockRows + padded_logits(routing.num_experts));
}

#if defined(QWEN3_MLX_HAS_WARPGROUPS)

struct RouterRoom {
  char* rows;
  float* sums; // [kStepWarps][kBlockRows]
  float* logits;

  __device__ __forceinline__
  RouterRoom(const StepRouting& routing, void* room) {
    rows = reinterpret_cast<char*>(
        (reinterpret_cast<std::uintptr_t>(room) + 15) / 16 * 16);
    sums = reinterpret_cast<float*>(rows + routing.router.row_bytes());
    logits = sums + kStepWarps * kBlockRows;
  }
};

__device__ __forceinline__ bool has_router_rows(const StepRouting& routing) {
  return static_cast<int>(blockIdx.x) < routing.router.row_blocks();
}

// Begins to copy the rows of this block of threads; `room` is free.
__device__ __forceinline__ void
fetch_router(const StepRouting& routing, const StepPhase& phase, void* room) {
  if (!has_router_rows(routing)) {
    return;
  }
  const std::size_t n_bytes = routing.router.row_bytes();
  const char* const from =
      static_cast<const char*>(phase.router) + blockIdx.x * n_bytes;
  char* const to = RouterRoom(routing, room).rows;
#pragma unroll 1
  for (std::size_t at = threadIdx.x * 16; at < n_bytes; at += kThreads * 16) {
    copy_async(to + at, from + at);
  }
  commit_copies();
}

// Eight neighbours of a row, as numbers that a scale and a bias belong to.
__device__ __forceinline__ void read_codes(
    const PackedLayout& layout,
    const char* block,
    int lane,
    int quarter,
    float (&v)[8]) {
  if (layout.bits == 4) {
    const unsigned word =
        *reinterpret_cast<const unsigned*>(block + lane * 16 + quarter * 4);
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      v[j] = static_cast<float>(word >> (j % 2 * 16 + j / 2 * 4) & 15U);
    }
  } else if (layout.bits == 8) {
    const uint2 words = *reinterpret_cast<const uint2*>(
        block + quarter / 2 * 512 + lane * 16 + quarter % 2 * 8);
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      v[j] =
          static_cast<float>((j < 4 ? words.x : words.y) >> j % 4 * 8 & 255U);
    }
  } else {
    spread(
        *reinterpret_cast<const uint4*>(block + quarter * 512 + lane * 16), v);
  }
}

// What a lane has of the product of a block with its operands.
template <int Bits, int Group>
__device__ __forceinline__ float multiply_router_block(
    const PackedLayout& layout,
    const char* block,
    const ProductRoom& room,
    int col,
    int lane) {
  float sum = 0;
#pragma unroll
  for (int quarter = 0; quarter < 4; ++quarter) {
    const int chunk = col * (kBlockCols / 8) + quarter * 4 + lane % 4;
    float of_x[8];
    get_operands<Bits>(
        room.x[chunk], room.groups[chunk / (Group / 8)].scale, of_x);
    float v[8];
    read_codes(layout, block, lane, quarter, v);
    float product = 0;
    float x_sum = 0;
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      product = fmaf(v[j], of_x[j], product);
      x_sum += of_x[j];
    }
    if (layout.is_plain()) {
      sum += product;
    } else {
      const unsigned scale = *reinterpret_cast<const unsigned*>(
          block + layout.code_bytes() + quarter * 32 / layout.group * 32 +
          lane / 4 * 4);
      sum = fmaf(low_bf16(scale), product, sum);
      sum = fmaf(high_bf16(scale), x_sum, sum);
    }
  }
  return sum;
}

// The logits of this block of threads, told to all.
template <int Bits, int Group>
__device__ __forceinline__ void multiply_router(
    const StepRouting& routing,
    const ProductRoom& product,
    const RouterRoom& room,
    unsigned flag) {
  const int tid = static_cast<int>(threadIdx.x);
  const int lane = tid % 32;
  const PackedLayout& layout = routing.router;
  wait_for_copies<0>();
  __syncthreads();
  float sum = 0;
#pragma unroll 1
  for (int col = tid / 32; col < layout.col_blocks(); col += kStepWarps) {
    sum += multiply_router_block<Bits, Group>(
        layout, room.rows + col * layout.block_bytes(), product, col, lane);
  }
  sum += __shfl_xor_sync(0xffffffffU, sum, 1);
  sum += __shfl_xor_sync(0xffffffffU, sum, 2);
  if (lane % 4 == 0) {
    room.sums[tid / 32 * kBlockRows + lane / 4] = sum;
  }
  __syncthreads();
  const int expert = static_cast<int>(blockIdx.x) * kBlockRows + tid;
  if (tid < kBlockRows && expert < routing.num_experts) {
    float logit = 0;
#pragma unroll
    for (int w = 0; w < kStepWarps; ++w) {
      logit += room.sums[w * kBlockRows + tid];
    }
    put_word(routing.words + expert, __float_as_uint(logit), flag);
  }
}

__device__ __forceinline__ void
read_logits(const StepRouting& routing, unsigned flag, float* logits) {
  const int E = routing.num_experts;
  const int padded = (E + 31) / 32 * 32;
  const auto pad = static_cast<int>(padded_logits(E));
#pragma unroll 1
  for (int e = static_cast<int>(threadIdx.x); e < padded; e += kThreads) {
    FlaggedWord word = 0;
    read_until<is_of>(flag, [&] {
      const FlaggedWord* missing = nullptr;
      if (e < E) {
        word = get_word(routing.words + e);
        missing = is_of(word, flag) ? nullptr : routing.words + e;
      }
      return missing;
    });
    if (e < pad) {
      const float logit = float_of(word);
      // What is no number is chosen last, but never not ranked.
      logits[e] = e < E && !isnan(logit) ? logit : -INFINITY;
    }
  }
}

// Multiplies the operands with the router, and finds the experts with the
// greatest logits, ties going to the lower index, and their shares. The shares
// are there for all after the next barrier.
template <int Bits, int Group>
__device__ __forceinline__ void choose_experts(
    const StepRouting& routing,
    const ProductRoom& product,
    void* shared,
    unsigned flag,
    Chosen& chosen) {
  const RouterRoom room(routing, shared);
  if (has_router_rows(routing)) {
    multiply_router<Bits, Group>(routing, product, room, flag);
  }
  read_logits(routing, flag, room.logits);
  __syncthreads();
  const int tid = static_cast<int>(threadIdx.x);
  const int E = routing.num_experts;
  const auto pad = static_cast<int>(padded_logits(E));
  const int part = tid % 4;
#pragma unroll 1
  for (int e = tid / 4; e < pad; e += kThreads / 4) {
    const float own = room.logits[e];
    int rank = 0; // how many come before
#pragma unroll 4
    for (int first = part * 4; first < pad; first += 16) {
      const float4 others =
          *reinterpret_cast<const float4*>(room.logits + first);
      const float of[4] = {others.x, others.y, others.z, others.w};
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        rank += of[j] > own || (of[j] == own && first + j < e) ? 1 : 0;
      }
    }
    rank += __shfl_xor_sync(0xffffffffU, rank, 1);
    rank += __shfl_xor_sync(0xffffffffU, rank, 2);
    if (part == 0 && rank < routing.num_chosen) {
      chosen.experts[rank] = e;
    }
  }
  __syncthreads();
  if (tid < 32) {
    const bool is_choice = tid < routing.num_chosen;
    const float greatest = room.logits[chosen.experts[0]];
    const float mine =
        is_choice ? __expf(room.logits[chosen.experts[tid]] - greatest) : 0;
    float total = mine;
    if (!routing.normalize) {
      total = 0;
#pragma unroll 1
      for (int e = tid; e < E; e += 32) {
        total += __expf(room.logits[e] - greatest);
      }
    }
    total = warp_sum(total);
    if (is_choice) {
      chosen.shares[tid] = mine / total;
    }
  }
}

#endif

} // namespace qwen3_mlx::cuda::persistent
