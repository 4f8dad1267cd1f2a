// SPDX-License-Identifier: MIT
// ggml's quantized blocks as float32.
#pragma once

#include <cstddef>
#include <cstdint>

#include "formats/gguf.h"

namespace qwen3_mlx {

/// Whether dequantize_ggml() knows the type: F32, F16, BF16, Q4_0, Q4_1, Q5_0,
/// Q5_1, Q8_0, Q2_K to Q6_K, Q8_K, IQ4_NL, IQ4_XS and MXFP4.
bool can_dequantize(GgmlType type);

/// Writes `n_elements` values, a multiple of the type's block, from the blocks
/// at `from`. Every value is the float32 that the format's definition gives:
/// scales are first multiplied with each other, then with the number, then the
/// minimum is subtracted, each rounded once.
void dequantize_ggml(
    GgmlType type,
    const std::byte* from,
    std::size_t n_elements,
    float* out);

} // namespace qwen3_mlx
