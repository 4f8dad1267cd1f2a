// SPDX-License-Identifier: MIT
// Matrices of a model in the layout of the CPU kernels, and the threads and
// instruction set that the model runs on.
#pragma once

#include <memory>
#include <optional>

#include "kernels/cpu/context.h"
#include "kernels/cpu/weight_arena.h"
#include "qwen3_mlx/matrix.h"

namespace qwen3_mlx::cpu {

/// Made once for a model and shared by its matrices.
struct Runtime {
  /// `num_threads` < 1: one a physical core. Throws InvalidArgument when
  /// QWEN3_MLX_ISA names a set this machine lacks.
  explicit Runtime(int num_threads = 0, bool exact = false);

  Context context() {
    return {pool, kernels, exact, &scratch};
  }

  ThreadPool pool;
  const KernelTable& kernels;
  bool exact;
  WeightArena arena; ///< Where make_tiled() takes memory from.
  ScratchPool scratch;
};

/// How the bytes of a tiled matrix are to be read.
struct Tiles {
  PackedLayout layout; ///< Of one matrix.
  int num_matrices =
      0;              ///< 0: a matrix [out, in]; else [num_matrices, out, in].
  QuantFormat source; ///< As the checkpoint has it.
  std::shared_ptr<Runtime> runtime;
};

/// A matrix of the shape and format of `source` in tiles: `weight` is uint8
/// [tiles, bytes of a tile], allocated and not filled. Nothing when the kernels
/// lack the format. Reads no contents of `source`.
std::optional<Matrix>
make_tiled(const Matrix& source, const std::shared_ptr<Runtime>& runtime);

/// Fills a matrix that make_tiled() made, on all threads of its runtime.
void fill_tiles(const Matrix& source, const Matrix& tiled);

/// Rows [begin, begin + n) of a tiled matrix [out, in]: tiles that share the
/// memory where `begin` is a multiple of 16, else a plain float32 copy.
Matrix tiled_rows(const Matrix& w, int begin, int n);

/// What the kernels read; the array must be evaluated.
PackedView view(const Matrix& w);

} // namespace qwen3_mlx::cpu
