// SPDX-License-Identifier: MIT
// Matrices of a model in the layout of the CUDA kernels, and what the kernels
// of one model share.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "kernels/cuda/packed_layout.h"
#include "mlx/array.h"
#include "qwen3_mlx/matrix.h"

namespace qwen3_mlx::cuda {

/// Made once for a model and shared by its matrices: the GPU and its memory.
struct Runtime;

/// Why these kernels cannot run here; nothing when they can.
std::optional<std::string> why_unavailable();

/// What they leave to MLX's operations where they run, and why; a line each.
std::vector<std::string> what_falls_back();

/// Throws Error when the kernels cannot run here. `exact`: what a row or a
/// position gets does not depend, to the bit, on what is computed beside it.
std::shared_ptr<Runtime> make_runtime(bool exact);
bool is_exact(const Runtime& runtime);

/// How the bytes of a matrix in blocks are to be read.
struct Blocks {
  PackedLayout layout; ///< Of one matrix.
  int num_matrices =
      0; ///< 0: a matrix [out, in]; else [num_matrices, out, in].
  std::shared_ptr<Runtime> runtime;
};

/// The layout for a matrix of that shape and format; nothing when the kernels
/// lack the format.
std::optional<PackedLayout> layout_of(const Matrix& source);

/// A matrix of the shape and format of `source` in blocks, allocated and not
/// filled (Uploads); nothing when the kernels lack the format.
std::optional<Matrix>
make_blocks(const Matrix& source, const std::shared_ptr<Runtime>& runtime);

} // namespace qwen3_mlx::cuda
