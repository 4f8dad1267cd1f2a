// SPDX-License-Identifier: MIT
// How the matrices of a checkpoint are packed.
#pragma once

#include <optional>
#include <string_view>

#include "qwen3_mlx/quantization.h"
#include "weights/checkpoint.h"

namespace qwen3_mlx {

/// The format that ggml's blocks of this type are one to one, in groups of 32;
/// nothing for types that MLX cannot pack.
std::optional<QuantFormat> block_format(StoredType type);

/// "model.norm" of "model.norm.weight": what a matrix, its scales and its
/// biases have in common.
std::string_view module_of(std::string_view tensor);

/// The format of the matrix that the tensor `name` is, or whose scales or
/// biases it is; not quantized for plain and for unknown ones.
QuantFormat stored_format(
    const Checkpoint& checkpoint,
    const std::optional<QuantizationConfig>& quantization,
    std::string_view name);

} // namespace qwen3_mlx
