// SPDX-License-Identifier: MIT
// Packing rows of numbers as ggml's reference code does, to the bit.
#pragma once

#include <cstddef>
#include <span>

#include "formats/gguf.h"

namespace qwen3_mlx {

/// Writes `row` (whole blocks) at `out`. `type` is one of F32, F16, BF16, Q8_0,
/// Q4_0 and Q4_1.
void quantize_ggml_row(
    GgmlType type,
    std::span<const float> row,
    std::byte* out);

} // namespace qwen3_mlx
