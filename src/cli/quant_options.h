// SPDX-License-Identifier: MIT
// What --q-mode, --q-bits and --q-group-size mean, to every command that has
// them.
#pragma once

#include <optional>
#include <string>

#include "qwen3_mlx/quantization.h"

namespace qwen3_mlx::cli {

/// "affine", "mxfp4", "mxfp8" or "nvfp4"; nothing for other names.
std::optional<QuantMode> quant_mode_named(const std::string& name);

/// What is absent has the mode's usual value, as in mlx-lm. MLX may not have
/// the format: see is_supported().
QuantFormat with_defaults(
    QuantMode mode,
    std::optional<int> bits,
    std::optional<int> group_size);

} // namespace qwen3_mlx::cli
