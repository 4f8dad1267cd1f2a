// SPDX-License-Identifier: MIT
// FP8 matrices with float scales: of blocks ("weight_scale_inv"), of rows or of
// the whole ("weight_scale").
#pragma once

#include "weights/foreign_quantization.h"

namespace qwen3_mlx {

/// See import_foreign(). A number is its E4M3 value times the scale, one
/// product in float32.
void import_fp8(
    const std::filesystem::path& path,
    const ForeignQuantization& quantization,
    TensorMap& tensors);

} // namespace qwen3_mlx
