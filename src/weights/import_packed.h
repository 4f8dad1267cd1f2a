// SPDX-License-Identifier: MIT
// Integers of a few bits with a scale and a zero point for each group of
// inputs: AWQ, GPTQ and compressed-tensors' pack-quantized.
#pragma once

#include "weights/foreign_quantization.h"

namespace qwen3_mlx {

/// See import_foreign(). A number is (q - zero) * scale, in float32, where the
/// difference is exact.
///
/// AWQ: qweight [in, out / 8], qzeros [in / group, out / 8], eight outputs a
/// word in the order 0 2 4 6 1 3 5 7; scales [in / group, out].
/// GPTQ: qweight [in * bits / 32, out], bits of the inputs of one output after
/// each other; qzeros [groups, out * bits / 32], scales [groups, out], and
/// g_idx [in], the group of each input, where they are not in order.
/// pack-quantized: weight_packed [out, in * bits / 32], weight_scale [out,
/// groups], weight_zero_point [out * bits / 32, groups] unless symmetric.
void import_packed(
    const std::filesystem::path& path,
    const ForeignQuantization& quantization,
    TensorMap& tensors);

} // namespace qwen3_mlx
