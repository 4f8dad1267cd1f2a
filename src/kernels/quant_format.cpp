// SPDX-License-Identifier: MIT
#include "qwen3_mlx/quant_format.h"

namespace qwen3_mlx {

const char* to_string(QuantMode mode) {
  switch (mode) {
  case QuantMode::none:
    return "none";
  case QuantMode::affine:
    return "affine";
  case QuantMode::mxfp4:
    return "mxfp4";
  case QuantMode::mxfp8:
    return "mxfp8";
  case QuantMode::nvfp4:
    return "nvfp4";
  }
  return "none";
}

} // namespace qwen3_mlx
