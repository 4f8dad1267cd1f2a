// SPDX-License-Identifier: MIT
// A weight matrix as a checkpoint holds it: plain, or packed in one of MLX's
// quantized formats.
#pragma once

#include <memory>
#include <optional>

#include "mlx/array.h"
#include "qwen3_mlx/quant_format.h"

namespace qwen3_mlx {
namespace mx = mlx::core;

namespace cpu {
struct Tiles;
}
namespace cuda {
struct Blocks;
}

/// A matrix [..., out, in]. Copies share the arrays.
///
/// Plain: `weight` is [..., out, in] in a float type. Packed: `weight` is
/// uint32 [..., out, in * bits / 32], `scales` is [..., out, in / group_size]
/// and `biases`, in mode affine only, is like `scales`: an element is
/// scale * q + bias.
///
/// Tiled: `tiles` is set, and `weight` is uint8 in the layout of this project's
/// CPU kernels, scales and biases inside.
///
/// In blocks: the same with `blocks`, for this project's CUDA kernels.
struct Matrix {
  mx::array weight;
  std::optional<mx::array> scales;
  std::optional<mx::array> biases;
  QuantFormat format;

  std::shared_ptr<const cpu::Tiles> tiles = nullptr;
  std::shared_ptr<const cuda::Blocks> blocks = nullptr;

  /// Rows, the size of the output.
  int out_dim() const;
  /// Columns, the size of the input.
  int in_dim() const;
};

} // namespace qwen3_mlx
