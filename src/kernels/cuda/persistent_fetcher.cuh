// SPDX-License-Identifier: MIT
// How weights come to the warps of persistent_step.cu: what a warp has to
// multiply, phase by phase, flows into its ring in shared memory.
#pragma once

#include "kernels/cuda/persistent_step.h"
#include "kernels/cuda/warpgroup.cuh"

namespace qwen3_mlx::cuda::persistent {

constexpr int kThreads = kStepWarps * 32;
constexpr int kMaxStages = 8;
// How matrices are packed: codes, or elements (16 bits, no groups).
template <int Bits, int Group>
struct Form {
  static constexpr bool kIsPlain = Bits == 16;
  static constexpr int kGroups = kIsPlain ? 0 : kBlockCols / (Group + kIsPlain);
  static constexpr int kQuarters = kIsPlain ? 0 : 4 / (kGroups + kIsPlain);
  static constexpr int kCodeBytes = kBlockRows * kBlockCols / 8 * Bits;
  static constexpr int kBlockBytes = kCodeBytes + kGroups * 32;
  /// Cells that a warp fetches at once, if they are of one row of blocks.
  static constexpr int kChunkCells = kIsPlain ? 1 : 2;
  /// First the blocks of the first row, then of the second.
  static constexpr int kChunkBytes = 2 * kChunkCells * kBlockBytes;
  /// Of a column.
  static constexpr int kOperandBytes = kIsPlain ? 4 : 2;
};

#if defined(QWEN3_MLX_HAS_WARPGROUPS)

// A shape as one block of threads sees it.
struct OwnShape {
  StepShape shape;
  CellRange cells; // of the block
  int first_pair;
  int num_pairs;
  int pair_sums; // where its own begin among PairSums
  // What the shape would have to divide for.
  int col_blocks;
  int run_blocks;
  int matrix_pairs;
};

// A warp's cells of a shape.
struct alignas(16) WarpShare {
  int pair; // of the first one
  int col;
  int run; // cells up to the end of its run
  int count;
};

// The experts of the layer that is at work.
struct Chosen {
  int experts[kMaxStepChosen];
  float shares[kMaxStepChosen]; // of what they give
};

// What all warps of a block of threads know.
struct Shared {
  OwnShape shapes[kMaxStepShapes];
  WarpShare of_warp[kMaxStepShapes][kStepWarps];
  float squares[kStepWarps];
  Chosen chosen;
};

// The cells of one warp, phase by phase: begun as early as its ring has room,
// for weights depend on nothing but, where there are experts, who was chosen.
template <int Bits, int Group, bool HasExperts>
class Fetcher {
 public:
  using F = Form<Bits, Group>;

  __device__ __forceinline__ Fetcher(
      const StepWeight* weights,
      int num_weights,
      const Shared& shared,
      char* ring,
      std::uint64_t* full,
      int num_stages,
      int warp,
      bool issues)
      : next_(weights), end_(weights + num_weights), shared_(shared),
        ring_(ring), full_(full), num_stages_(num_stages), free_(num_stages),
        warp_(warp), issues_(issues) {}

  // Begins what the ring has room for.
  __device__ __forceinline__ void fill() {
#pragma unroll 1
    while (free_ > 0 && fetch()) {
    }
  }

  // The oldest stage has been read.
  __device__ __forceinline__ void release() {
    ++free_;
    fill();
  }

  // The experts of so many phases are known.
  __device__ __forceinline__ void let_pass(int num_phases) {
    may_pass_ = num_phases;
    fill();
  }

 private:
  // The next cells into the next stage, if there are any.
  __device__ __forceinline__ bool fetch() {
    if (left_ == 0) {
      advance();
      if (left_ == 0) {
        return false;
      }
    }
    const int count = min(min(F::kChunkCells, left_), run_);
    if (issues_) {
      const auto n_bytes = static_cast<unsigned>(count * F::kBlockBytes);
      char* const to = ring_ + stage_ * F::kChunkBytes;
      arrive_and_expect(full_ + stage_, 2 * n_bytes);
      copy_bulk(to, at_, n_bytes, full_ + stage_);
      copy_bulk(
          to + F::kChunkCells * F::kBlockBytes,
          at_ + second_,
          n_bytes,
          full_ + stage_);
    }
    --free_;
    stage_ = stage_ + 1 == num_stages_ ? 0 : stage_ + 1;
    left_ -= count;
    run_ -= count;
    at_ += count * F::kBlockBytes;
    if (run_ == 0) {
      next_run();
    }
    return true;
  }

  __device__ __forceinline__ void next_run() {
    if constexpr (HasExperts) {
      if (run_blocks_ != col_blocks_) { // experts beside each other
        col_ += run_blocks_;
        if (col_ == col_blocks_) {
          col_ = 0;
          ++pair_;
        }
        aim(pair_, col_);
        return;
      }
    }
    aim(++pair_, 0);
  }

  // At the block of columns `col`, where a run begins, of a pair of rows.
  __device__ __forceinline__ void aim(int pair, [[maybe_unused]] int col) {
    run_ = run_blocks_;
    const char* matrix = weight_;
    if constexpr (HasExperts) {
      if (expert_bytes_ != 0) {
        int slot = 0;
        if (is_gated_) {
          slot = pair / matrix_pairs_;
          pair -= slot * matrix_pairs_;
        } else {
          slot = col / run_blocks_;
        }
        if (slot < kMaxStepChosen) { // beyond its last cell a warp aims too
          matrix += expert_bytes_ *
              static_cast<std::size_t>(shared_.chosen.experts[slot]);
        }
      }
    }
    const auto row_bytes = static_cast<unsigned>(run_blocks_ * F::kBlockBytes);
    if (is_gated_) {
      at_ = matrix + static_cast<std::size_t>(pair) * row_bytes;
      second_ = static_cast<unsigned>(matrix_pairs_) * row_bytes;
    } else {
      at_ = matrix + static_cast<std::size_t>(2 * pair) * row_bytes;
      // An odd number of rows of blocks: the last one stands in for the next.
      second_ = 2 * pair + 1 < row_blocks_ ? row_bytes : 0;
    }
  }

  __device__ __forceinline__ void advance() {
    while (left_ == 0 && next_ != end_) {
      const OwnShape& own = shared_.shapes[next_->shape];
      if constexpr (HasExperts) {
        if (own.shape.is_chosen()) {
          if (may_pass_ == 0) {
            return;
          }
          --may_pass_;
        }
      }
      const StepWeight next = *next_++;
      const WarpShare share = shared_.of_warp[next.shape][warp_];
      left_ = share.count;
      if (left_ > 0) {
        weight_ = static_cast<const char*>(next.weight);
        row_blocks_ = own.shape.row_blocks();
        is_gated_ = own.shape.is_gated();
        run_blocks_ = own.run_blocks;
        matrix_pairs_ = own.matrix_pairs;
        pair_ = share.pair;
        const int before = run_blocks_ - share.run; // in the run
        if constexpr (HasExperts) {
          expert_bytes_ = own.shape.expert_bytes;
          col_blocks_ = own.col_blocks;
          col_ = share.col - before;
        }
        aim(pair_, col_);
        run_ = share.run;
        at_ += static_cast<unsigned>(before * F::kBlockBytes);
      }
    }
  }

  const StepWeight* next_;
  const StepWeight* end_;
  const Shared& shared_;
  char* ring_;
  std::uint64_t* full_;
  int num_stages_;
  int free_; // stages
  int stage_ = 0;
  int warp_;
  bool issues_;
  const char* weight_ = nullptr;
  const char* at_ = nullptr;
  unsigned second_ = 0;
  int run_blocks_ = 1;
  int run_ = 0; // blocks up to its end
  int matrix_pairs_ = 0;
  int row_blocks_ = 0;
  int pair_ = 0;
  int left_ = 0;
  bool is_gated_ = false;
  // Of experts.
  int may_pass_ = 0;
  std::size_t expert_bytes_ = 0;
  int col_blocks_ = 1;
  int col_ = 0; // where the run begins
};

#endif

} // namespace qwen3_mlx::cuda::persistent
