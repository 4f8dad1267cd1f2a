// SPDX-License-Identifier: MIT
// Conversions that follow a calibration run.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "convert/calibration.h"
#include "convert/tensor_job.h"
#include "qwen3_mlx/convert.h"
#include "weights/checkpoint.h"

namespace qwen3_mlx {

/// Throws InvalidArgument for options that calibration does not go with.
void check_calibration(const ConvertOptions& options);

/// The type of a matrix's scales and biases in the output.
using DTypeOf =
    std::function<DType(const std::string& module, const StoredMatrix& matrix)>;

/// A rule for each matrix that `options` quantize without saying how many bits:
/// as many as pay most. Rewinds `run`.
std::vector<ModuleRule> allocate_bits(
    const Checkpoint& checkpoint,
    const ModelArgs& args,
    const ConvertOptions& options,
    const DTypeOf& dtype_of,
    CalibrationRun& run);

/// Runs all jobs, a layer's when the model has shown its inputs. Matrices of
/// which it shows none (a table of embeddings alone, the experts' second
/// projections) are rounded to nearest.
void run_calibrated(
    std::vector<TensorJob>& jobs,
    CalibrationRun& run,
    int n_threads,
    const ConvertProgress& progress);

} // namespace qwen3_mlx
