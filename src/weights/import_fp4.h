// SPDX-License-Identifier: MIT
// FP4 (E2M1) matrices of compressed-tensors: nvfp4-pack-quantized and
// mxfp4-pack-quantized.
#pragma once

#include "weights/foreign_quantization.h"

namespace qwen3_mlx {

/// See import_foreign(). Two numbers a byte, the first in the low bits.
///
/// nvfp4: weight_packed U8 [out, in / 2], weight_scale F8_E4M3 [out, in / 16],
/// weight_global_scale F32 [1]. A number is value * (scale / global), each in
/// float32.
/// mxfp4: weight_packed and weight_scale U8 [out, in / 32], the scale's
/// exponent. These are MLX's own bytes: the matrix stays packed, under the
/// names
/// "<module>.weight" and "<module>.scales".
void import_fp4(
    const std::filesystem::path& path,
    const ForeignQuantization& quantization,
    TensorMap& tensors);

} // namespace qwen3_mlx
