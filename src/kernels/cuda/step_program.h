// SPDX-License-Identifier: MIT
// A decode step of one sequence as a list of phases for one kernel that stays
// on the GPU for all of them (persistent_step.h).
#pragma once

#include <array>
#include <functional>
#include <optional>
#include <variant>
#include <vector>

#include "kernels/cuda/kernels.h"

namespace qwen3_mlx::cuda {

/// Rows of a matrix that a warp multiplies at once: two blocks.
inline constexpr int kPairRows = 2 * kBlockRows;
inline constexpr int kStepWarps = 16;
inline constexpr int kMaxStepShapes = 8;
/// Experts that a layer has, and those of them that a token goes to.
inline constexpr int kMaxStepExperts = 512;
inline constexpr int kMaxStepChosen = 16;
/// Parts in which a head's positions are looked at: lanes of a warp.
inline constexpr int kMaxStepSplits = 32;

/// What blocks of threads hand to each other: 32 bits of data, and above them
/// a number that tells which phase of which step they are of.
using FlaggedWord = unsigned long long;

/// What a product's sums become.
enum class StepOutput : int {
  plain,  ///< A float a word.
  logits, ///< bfloat16, for who comes after the step.
  gated,  ///< silu(first half of the rows) * second half; two bfloat16 a word.
  parts,  ///< To be added to the residual stream; two floats a word. Rows are
          ///< cut between blocks of threads, each of which leaves its part.
};

/// How a product is shared out: "cells" are blocks of columns of pairs of rows
/// of blocks, numbered row by row. Gated ones pair the two halves.
///
/// Matrices of a token's experts are one: gated ones below each other, which
/// all take the same row, others beside each other, so that their sum comes
/// out. `rows` and `cols` are those of the whole.
struct StepShape {
  int rows = 0;
  int cols = 0;
  StepOutput output = StepOutput::plain;
  int num_parts = 0;            ///< Blocks of threads that meet in one row.
  int slots = 0;                ///< Partial sums that a warp may leave.
  int num_chosen = 0;           ///< Experts; 0: one matrix.
  std::size_t expert_bytes = 0; ///< Of one expert's matrix.

  bool operator==(const StepShape&) const = default;

  QWEN3_MLX_HOST_DEVICE constexpr int row_blocks() const {
    return rows / kBlockRows;
  }
  QWEN3_MLX_HOST_DEVICE constexpr int col_blocks() const {
    return cols / kBlockCols;
  }
  QWEN3_MLX_HOST_DEVICE constexpr bool is_gated() const {
    return output == StepOutput::gated;
  }
  QWEN3_MLX_HOST_DEVICE constexpr int num_pairs() const {
    return is_gated() ? row_blocks() / 2 : (row_blocks() + 1) / 2;
  }
  QWEN3_MLX_HOST_DEVICE constexpr int num_cells() const {
    return num_pairs() * col_blocks();
  }
  QWEN3_MLX_HOST_DEVICE constexpr bool is_chosen() const {
    return num_chosen > 0;
  }
  /// Pairs of one matrix.
  QWEN3_MLX_HOST_DEVICE constexpr int matrix_pairs() const {
    return is_chosen() && is_gated() ? num_pairs() / num_chosen : num_pairs();
  }
  /// Blocks of columns of one matrix: those that lie after each other.
  QWEN3_MLX_HOST_DEVICE constexpr int run_blocks() const {
    return is_chosen() && !is_gated() ? col_blocks() / num_chosen
                                      : col_blocks();
  }
  /// Floats of one part.
  QWEN3_MLX_HOST_DEVICE constexpr int part_length() const {
    return num_pairs() * kPairRows;
  }
};

struct CellRange {
  int begin = 0;
  int end = 0;
};

QWEN3_MLX_HOST_DEVICE constexpr int share_of(int total, int idx, int count) {
  return static_cast<int>(
      static_cast<unsigned>(total) * static_cast<unsigned>(idx) /
      static_cast<unsigned>(count));
}

/// Blocks of threads that have a share where rows are cut: all that find a
/// cell.
QWEN3_MLX_HOST_DEVICE constexpr int
cutting_blocks(const StepShape& shape, int num_blocks) {
  return shape.num_cells() < num_blocks ? shape.num_cells() : num_blocks;
}

/// The share of one block of threads.
QWEN3_MLX_HOST_DEVICE constexpr CellRange
cells_of_block(const StepShape& shape, int block, int num_blocks) {
  if (shape.output != StepOutput::parts) {
    return {
        share_of(shape.num_pairs(), block, num_blocks) * shape.col_blocks(),
        share_of(shape.num_pairs(), block + 1, num_blocks) *
            shape.col_blocks()};
  }
  const int blocks = cutting_blocks(shape, num_blocks);
  if (block >= blocks) {
    return {};
  }
  return {
      share_of(shape.num_cells(), block, blocks),
      share_of(shape.num_cells(), block + 1, blocks)};
}

/// The block of threads that has that cell where rows are cut.
QWEN3_MLX_HOST_DEVICE constexpr int
block_of_cell(const StepShape& shape, int cell, int num_blocks) {
  const int blocks = cutting_blocks(shape, num_blocks);
  return static_cast<int>(
      (static_cast<unsigned>(cell + 1) * static_cast<unsigned>(blocks) - 1) /
      static_cast<unsigned>(shape.num_cells()));
}

/// A warp's part of its block's share.
QWEN3_MLX_HOST_DEVICE constexpr CellRange
cells_of_warp(CellRange block, int warp) {
  const int count = block.end - block.begin;
  return {
      block.begin + share_of(count, warp, kStepWarps),
      block.begin + share_of(count, warp + 1, kStepWarps)};
}

/// One phase. A phase begins, for each block of threads, when what it reads is
/// there.
struct alignas(16) StepPhase {
  bool is_attention = false;

  // A product. With a norm it reads the residual stream, which every block of
  // threads keeps for itself, after adding what the phase `read_phase` left.
  int shape = 0;
  const void* weight = nullptr;
  const void* norm = nullptr;
  const void* bias = nullptr;
  const void* embedding = nullptr; ///< bfloat16: the stream begins there.
  float norm_eps = 0;
  int num_parts = 0; ///< To be added to the stream.
  int part_length = 0;
  /// The product is one with experts that this matrix chooses first.
  const void* router = nullptr;

  // What it reads, or attention does, and what it writes; nullptr: nothing.
  int read_phase = 0;
  const FlaggedWord* in = nullptr;
  FlaggedWord* out = nullptr;

  // Attention of one sequence.
  int layer = 0;
  const void* q_norm = nullptr;
  const void* k_norm = nullptr;
};

/// What all layers' attention has in common.
struct StepAttention {
  int num_heads = 0;
  int num_kv_heads = 0;
  int head_dim = 0;
  int window = 0; ///< 0: none.
  float scale = 0;
  const float* periods = nullptr; ///< [head_dim / 2]
  /// [num_kv_heads, kMaxStepSplits, group, head_dim + 2]
  FlaggedWord* workspace = nullptr;

  bool operator==(const StepAttention&) const = default;
};

/// What all layers' choices of experts have in common.
struct StepRouting {
  int num_experts = 0; ///< 0: there is no such layer.
  int num_chosen = 0;
  bool normalize = false;
  PackedLayout router;
  FlaggedWord* words = nullptr; ///< [num_experts], logits as floats.

  bool operator==(const StepRouting&) const = default;
};

/// What a warp must know to fetch a product's weights.
struct alignas(16) StepWeight {
  const void* weight = nullptr;
  int shape = 0;
};

/// Attention of the one sequence of a recorded step.
struct AttentionLaunch {
  DecodeAttentionArgs args;
};
using StepLaunch =
    std::variant<GemvArgs, AttentionLaunch, RouteArgs, WeightedSumArgs>;

/// Phases and what they have in common.
struct StepProgram {
  std::vector<StepPhase> phases;
  std::vector<StepShape> shapes;
  std::vector<StepWeight> weights; ///< Of the phases that are products.
  StepAttention attention;
  StepRouting routing;
  /// Pairs of rows that a block of threads has at most of all shapes together,
  /// and of those before each shape.
  int num_pair_sums = 0;
  std::array<int, kMaxStepShapes> first_pair_sums{};
  int num_layers = 0;
  int num_blocks = 0; ///< Blocks of threads.
  int hidden_size = 0;
  int bits = 0;
  int group = 0;

  /// What these launches do, as phases for at most so many blocks of threads;
  /// nothing when the kernel lacks one of them. `take` gives memory that lasts
  /// as long as the program, in bytes, zeroed; `logits` is what the last
  /// product writes.
  static std::optional<StepProgram> make(
      const std::vector<StepLaunch>& launches,
      const void* logits,
      int max_blocks,
      const std::function<void*(std::size_t)>& take);
};

} // namespace qwen3_mlx::cuda
