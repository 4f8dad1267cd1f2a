// SPDX-License-Identifier: MIT
#include "cli/quant_options.h"

namespace qwen3_mlx::cli {

std::optional<QuantMode> quant_mode_named(const std::string& name) {
  for (const auto mode :
       {QuantMode::affine,
        QuantMode::mxfp4,
        QuantMode::mxfp8,
        QuantMode::nvfp4}) {
    if (name == to_string(mode)) {
      return mode;
    }
  }
  return std::nullopt;
}

QuantFormat with_defaults(
    QuantMode mode,
    std::optional<int> bits,
    std::optional<int> group_size) {
  const int usual_bits = mode == QuantMode::mxfp8 ? 8 : 4;
  const int usual_group_size = mode == QuantMode::affine ? 64
      : mode == QuantMode::nvfp4                         ? 16
                                                         : 32;
  return {
      mode, bits.value_or(usual_bits), group_size.value_or(usual_group_size)};
}

} // namespace qwen3_mlx::cli
