// SPDX-License-Identifier: MIT
// Memory for the matrices of a model.
#pragma once

#include <cstddef>
#include <optional>

#include "mlx/array.h"

namespace qwen3_mlx::cpu {
namespace mx = mlx::core;

/// Hands out arrays that lie after each other in large pieces of MLX's memory
/// on huge pages. A piece is freed with the last array in it. One thread at a
/// time.
class WeightArena {
 public:
  /// uint8 [rows, cols], not filled, aligned to a cache line. Throws Error when
  /// there is no memory.
  mx::array allocate(int rows, int cols);

 private:
  void add_piece(std::size_t n_bytes);

  std::optional<mx::array> piece_;
  std::size_t used_ = 0; // from the start of the piece
  std::size_t size_ = 0;
};

} // namespace qwen3_mlx::cpu
