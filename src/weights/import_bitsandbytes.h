// SPDX-License-Identifier: MIT
// Matrices that bitsandbytes packed in 4 bits: nf4 and fp4.
#pragma once

#include "weights/foreign_quantization.h"

namespace qwen3_mlx {

/// See import_foreign(). The numbers of a matrix follow each other, two a byte,
/// the first in the high bits, whatever its rows are; `block_size` of them
/// share a scale. A number is quant_map[code] * absmax[block] in float32.
///
/// weight [numbers / 2, 1], weight.absmax F32 [blocks], weight.quant_map F32
/// [16], and weight.quant_state.bitsandbytes__nf4, or __fp4, U8: JSON with the
/// shape and the size of a block. Where scales are packed as well, absmax is U8
/// and a scale is nested_quant_map[code] * nested_absmax[block of scales] +
/// nested_offset, with weight.nested_quant_map F32 [256],
/// weight.nested_absmax F32, and the rest in the JSON.
void import_bitsandbytes(
    const std::filesystem::path& path,
    const ForeignQuantization& quantization,
    TensorMap& tensors);

} // namespace qwen3_mlx
