// SPDX-License-Identifier: MIT
// How a matrix is packed: MLX's quantization modes and their parameters.
#pragma once

namespace qwen3_mlx {

/// MLX's quantization modes (mx::quantize); `none` is a plain float matrix.
enum class QuantMode { none, affine, mxfp4, mxfp8, nvfp4 };

/// MLX's name of the mode, "none" for a plain matrix.
const char* to_string(QuantMode mode);

/// How the elements of a matrix are packed along its input dimension.
struct QuantFormat {
  QuantMode mode = QuantMode::none;
  int bits = 0;       ///< 2, 3, 4, 5, 6 or 8; 0 for a plain matrix.
  int group_size = 0; ///< Elements that share a scale; 0 for a plain matrix.

  bool operator==(const QuantFormat&) const = default;
  bool is_quantized() const {
    return mode != QuantMode::none;
  }
};

} // namespace qwen3_mlx
