// SPDX-License-Identifier: MIT
// Bits for each matrix by what a calibration text shows its errors to do.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "convert/calibration.h"
#include "formats/safetensors.h"
#include "qwen3_mlx/convert.h"
#include "weights/checkpoint.h"
#include "weights/stored_matrix.h"

namespace qwen3_mlx {

/// The type of a matrix's scales and biases in the output.
using DTypeOf =
    std::function<DType(const std::string& module, const StoredMatrix& matrix)>;

/// A rule for each matrix that `options` quantize without saying how many bits,
/// so that their mean is options.calibration->target_bits at most. Rewinds
/// `run`. Throws InvalidArgument for a target below 2 bits and their scales.
///
/// What a width does is measured: the matrix alone gets the widest width that
/// all could have, and the model reads some text (DamageMeter); for other
/// widths that follows the squared error of the matrix's outputs. Of the
/// allocations that begin with different widths, the one that does least to the
/// model as a whole is taken; all alike is among them.
std::vector<ModuleRule> bit_rules(
    const Checkpoint& checkpoint,
    const ModelArgs& args,
    const ConvertOptions& options,
    const DTypeOf& dtype_of,
    CalibrationRun& run);

} // namespace qwen3_mlx
