// SPDX-License-Identifier: MIT
#include "qwen3_mlx/matrix.h"

#include "kernels/cpu/tiles.h"
#include "kernels/cuda/runtime.h"

namespace qwen3_mlx {

int Matrix::out_dim() const {
  return tiles ? tiles->layout.rows
      : blocks ? blocks->layout.rows
               : weight.shape(-2);
}

int Matrix::in_dim() const {
  if (tiles) {
    return tiles->layout.cols;
  }
  if (blocks) {
    return blocks->layout.cols;
  }
  const int packed = weight.shape(-1);
  return format.is_quantized() ? packed * 32 / format.bits : packed;
}

} // namespace qwen3_mlx
