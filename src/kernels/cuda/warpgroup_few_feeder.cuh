// SPDX-License-Identifier: MIT
// The warps of warpgroup_few_rows.cu that bring weights and x to shared memory
// and arrange x there (arranged_rows.h): rows as they are, times the norm's
// weight. The
// norm's factor is one number a row, which the sums are multiplied by; the
// squares for it are added up on the way.
#pragma once

#include <cstdint>

#include "kernels/cuda/arranged_rows.h"
#include "kernels/cuda/arranged_sums.cuh"
#include "kernels/cuda/warpgroup_few_plan.cuh"

namespace qwen3_mlx::cuda::few_rows {

#if defined(QWEN3_MLX_HAS_WARPGROUPS)

// 16 bytes to shared memory, or zeros.
__device__ __forceinline__ void
copy_or_zero(void* to, const void* from, bool has) {
  asm volatile(
      "cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)),
      "l"(from),
      "r"(has ? 16 : 0)
      : "memory");
}

// Arrives when all that this thread has copied is there.
__device__ __forceinline__ void arrive_behind_copies(std::uint64_t* barrier) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(
                   shared_address(barrier))
               : "memory");
}

// What was written is the products' to read.
__device__ __forceinline__ void publish_to_products() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

struct Barriers {
  std::uint64_t* full;  // arranged, and weights are there
  std::uint64_t* empty; // read
  std::uint64_t* raw;   // rows are there
};

// A warp has eight rows, of each step or of every second or fourth. A lane
// arranges 32 columns of one row, in place.
template <int Group, int N, int BlockBytes>
class Feeder {
  static constexpr int kEights = N / 8;
  static constexpr int kStepsApart = kRowWarps / kEights;
  static constexpr int kNormAt = chunks<Group> * N * 16;
  static constexpr int kWeightsAt = row_bytes<Group, N>;

 public:
  __device__ __forceinline__ Feeder(
      const GemvArgs& args,
      const Plan& plan,
      char* ring,
      int stage_bytes,
      const Barriers& barriers,
      int warp,
      int lane)
      : args_(args), plan_(plan), share_(args, plan), ring_(ring),
        stage_bytes_(stage_bytes), barriers_(barriers), warp_(warp),
        lane_(lane), eight_(warp % kEights) {}

  // Weights depend on nothing, unless there are experts.
  __device__ __forceinline__ void begin() {
    if (plan_.grouped.tiles != nullptr || eight_ != 0) {
      return;
    }
    units_ = plan_.n_tiles;
    for (Step step = first_step(); step.unit < units_ && step.turn == 0;
         advance(step)) {
      fetch_weights(step);
    }
  }

  __device__ __forceinline__ void
  run(float (&squares)[kSquareUnits][kRowWarps][8]) {
    units_ = num_units(plan_);
    Step fetched = first_step();
    for (; fetched.unit < units_ && fetched.turn == 0; advance(fetched)) {
      fetch(fetched);
    }
    float sum = 0;
    for (Step step = first_step(); step.unit < units_;) {
      arrange(step, step.k + kStepsApart >= share_.end, sum, squares);
      // A stage is waited for when others still have a step to multiply.
      const int upto = step.at + plan_.stages - 2;
      advance(step);
      while (fetched.unit < units_ && fetched.at <= max(upto, step.at)) {
        fetch(fetched);
        advance(fetched);
      }
    }
  }

 private:
  struct Step {
    int unit;
    int k;
    int at;     // of all steps of the block of threads
    int before; // steps of the units before this one
    int count;  // of those units
    int stage;
    unsigned turn; // of the ring
  };

  __device__ __forceinline__ void settle(Step& step) const {
    while (step.k >= share_.end && step.unit < units_) {
      step.unit += share_.unit_step;
      step.before += share_.steps();
      ++step.count;
      step.k = share_.begin + warp_ / kEights;
    }
    const int at = step.before + step.k - share_.begin;
    step.stage += at - step.at;
    step.at = at;
    while (step.stage >= plan_.stages) {
      step.stage -= plan_.stages;
      ++step.turn;
    }
  }
  __device__ __forceinline__ Step first_step() const {
    Step step{share_.first_unit, share_.begin + warp_ / kEights, 0, 0, 0, 0, 0};
    settle(step);
    return step;
  }
  __device__ __forceinline__ void advance(Step& step) const {
    step.k += kStepsApart;
    settle(step);
  }

  __device__ __forceinline__ void fetch_weights(const Step& step) const {
    if (lane_ == 0) {
      const Unit unit = unit_at(args_, plan_, step.unit);
      auto* const full = barriers_.full + step.stage;
      arrive_and_expect(
          full, static_cast<unsigned>(plan_.tile_blocks * BlockBytes));
      copy_box(
          ring_ + step.stage * stage_bytes_ + kWeightsAt,
          &plan_.weights,
          step.k * (BlockBytes / 8),
          unit.n_tile * plan_.tile_blocks / (args_.gated ? 2 : 1),
          unit.expert,
          full);
    }
  }

  __device__ __forceinline__ void fetch(const Step& step) {
    const int stage = step.stage;
    const int row = lane_ / 2 % 8;
    if (step.unit != fetched_unit_) {
      fetched_unit_ = step.unit;
      const Unit unit = unit_at(args_, plan_, step.unit);
      num_rows_ = unit.num_rows;
      has_row_ = eight_ * 8 + row < num_rows_;
      int of = unit.first_row + (has_row_ ? eight_ * 8 + row : 0);
      if (plan_.grouped.tiles != nullptr && plan_.grouped.in_rows != nullptr) {
        of = plan_.grouped.in_rows[of] / plan_.grouped.rows_per_x;
      }
      from_ = static_cast<const __nv_bfloat16*>(args_.x) +
          static_cast<std::size_t>(of) *
              static_cast<std::size_t>(args_.layout.cols);
    }
    if (step.turn > 0) {
      wait_for(barriers_.empty + stage, (step.turn - 1) & 1U);
    }
    if (eight_ == 0 && (step.turn > 0 || plan_.grouped.tiles != nullptr)) {
      fetch_weights(step);
    }
    if (args_.norm != nullptr && eight_ == 0 && lane_ < 16) {
      const int col = step.k * kBlockCols + lane_ * 8;
      const bool has = col < args_.layout.cols;
      copy_or_zero(
          ring_ + stage * stage_bytes_ + kNormAt + lane_ * 16,
          static_cast<const __nv_bfloat16*>(args_.norm) + (has ? col : 0),
          has);
    }
    if (eight_ * 8 < num_rows_) {
      char* const to = ring_ + stage * stage_bytes_ + (eight_ * 8 + row) * 16;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int chunk = i * 4 + lane_ / 16 * 2 + lane_ % 2;
        const int col = step.k * kBlockCols + chunk * 8;
        const bool has = has_row_ && col < args_.layout.cols;
        copy_or_zero(to + chunk * (N * 16), from_ + (has ? col : 0), has);
      }
    }
    arrive_behind_copies(barriers_.raw + stage);
  }

  __device__ __forceinline__ void arrange(
      const Step& step,
      bool ends,
      float& squares_sum,
      float (&squares)[kSquareUnits][kRowWarps][8]) {
    const int stage = step.stage;
    const int row = lane_ % 8;
    const int quarter = lane_ / 8;
    // Rows without experts are the same for every unit.
    const bool adds_squares = args_.norm != nullptr &&
        (step.count == 0 || plan_.grouped.tiles != nullptr);
    wait_for(barriers_.raw + stage, step.turn & 1U);
    if (step.unit != arranged_unit_) {
      arranged_unit_ = step.unit;
      arranged_rows_ = unit_at(args_, plan_, step.unit).num_rows;
    }
    if (eight_ * 8 < arranged_rows_) {
      char* const rows = ring_ + stage * stage_bytes_ + (eight_ * 8 + row) * 16;
      char* const mine = rows + quarter * 4 * (N * 16);
      unsigned pairs[4][4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const uint4 v = *reinterpret_cast<const uint4*>(mine + i * (N * 16));
        pairs[i][0] = v.x, pairs[i][1] = v.y;
        pairs[i][2] = v.z, pairs[i][3] = v.w;
      }
      if (args_.norm != nullptr) {
        if (adds_squares) {
          squares_sum += squares_of(pairs);
        }
        const char* const weights =
            ring_ + stage * stage_bytes_ + kNormAt + quarter * 64;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const uint4 v = *reinterpret_cast<const uint4*>(weights + i * 16);
          pairs[i][0] = times(pairs[i][0], v.x);
          pairs[i][1] = times(pairs[i][1], v.y);
          pairs[i][2] = times(pairs[i][2], v.z);
          pairs[i][3] = times(pairs[i][3], v.w);
        }
      }
#pragma unroll
      for (int p = 0; p < 4; ++p) {
        *reinterpret_cast<uint4*>(mine + p * (N * 16)) =
            make_uint4(pairs[0][p], pairs[1][p], pairs[2][p], pairs[3][p]);
      }
      if constexpr (Group != 0) {
        store_sums(pairs, rows, quarter);
      }
    }
    if (adds_squares && ends) {
      squares_sum += __shfl_xor_sync(0xffffffffU, squares_sum, 8);
      squares_sum += __shfl_xor_sync(0xffffffffU, squares_sum, 16);
      if (lane_ < 8) {
        squares[step.count % kSquareUnits][warp_][lane_] = squares_sum;
      }
      squares_sum = 0;
    }
    publish_to_products();
    __syncwarp();
    if (lane_ == 0) {
      arrive(barriers_.full + stage);
    }
  }

  static __device__ __forceinline__ unsigned times(unsigned a, unsigned b) {
    const __nv_bfloat162 product = __hmul2(
        *reinterpret_cast<const __nv_bfloat162*>(&a),
        *reinterpret_cast<const __nv_bfloat162*>(&b));
    return *reinterpret_cast<const unsigned*>(&product);
  }

  static __device__ __forceinline__ float
  squares_of(const unsigned (&pairs)[4][4]) {
    float sums[4] = {};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const float a = low_bf16(pairs[i][j]);
        const float b = high_bf16(pairs[i][j]);
        sums[j] = fmaf(a, a, sums[j]);
        sums[j] = fmaf(b, b, sums[j]);
      }
    }
    return (sums[0] + sums[1]) + (sums[2] + sums[3]);
  }

  // The sum of this lane's elements, in float32: a product with ones, where
  // the lanes of a row of the operand have a column each.
  __device__ __forceinline__ float sum_of(const unsigned (&pairs)[4][4]) const {
    const unsigned ones = lane_ / 4 == lane_ % 4 ? 0x3f803f80U : 0U;
    float sums[2][4] = {};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      multiply_add(
          sums[i % 2],
          pairs[i][0],
          pairs[i][1],
          pairs[i][2],
          pairs[i][3],
          ones,
          ones);
    }
    const auto all = [&](int i) {
      return (sums[0][i] + sums[0][i + 2]) + (sums[1][i] + sums[1][i + 2]);
    };
    const int from = lane_ / 4 * 4 + lane_ % 4 / 2;
    const float even = __shfl_sync(0xffffffffU, all(0), from);
    const float odd = __shfl_sync(0xffffffffU, all(1), from);
    return lane_ % 2 == 0 ? even : odd;
  }

  // Each lane stores one number of each of the two chunks.
  __device__ __forceinline__ void
  store_sums(const unsigned (&pairs)[4][4], char* rows, int quarter) const {
    float sum = sum_of(pairs);
    if constexpr (Group >= 64) {
      sum += __shfl_xor_sync(0xffffffffU, sum, 8);
    }
    if constexpr (Group >= 128) {
      sum += __shfl_xor_sync(0xffffffffU, sum, 16);
    }
    const Parts parts(sum);
    float first = parts.high;
    float second = parts.middle;
    if constexpr (Group == 64) {
      first = quarter % 2 == 0 ? parts.high : parts.middle;
      second = quarter % 2 == 0 ? parts.low : 0.0F;
    } else if constexpr (Group == 128) {
      first = quarter == 0 ? parts.high
          : quarter == 1   ? parts.middle
          : quarter == 2   ? parts.low
                           : 0.0F;
      second = 0;
    }
    const float offset = code_offset(args_.layout.bits);
    char* const to = rows + kBlockCols / 8 * (N * 16) + quarter * 4;
    *reinterpret_cast<unsigned*>(to) = sum_pair(offset, first);
    *reinterpret_cast<unsigned*>(to + N * 16) = sum_pair(offset, second);
  }

  const GemvArgs& args_;
  const Plan& plan_;
  const Share share_;
  char* ring_;
  int stage_bytes_;
  Barriers barriers_;
  int warp_;
  int lane_;
  int eight_;
  int units_ = 0;
  int fetched_unit_ = -1;
  int arranged_unit_ = -1;
  int arranged_rows_ = 0;
  int num_rows_ = 0;
  bool has_row_ = false;
  const __nv_bfloat16* from_ = nullptr;
};

#endif

} // namespace qwen3_mlx::cuda::few_rows
