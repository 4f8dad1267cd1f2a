// SPDX-License-Identifier: MIT
// Conversions that follow a calibration run.
#pragma once

#include <vector>

#include "convert/calibration.h"
#include "convert/tensor_job.h"
#include "qwen3_mlx/convert.h"

namespace qwen3_mlx {

/// Throws InvalidArgument for options that calibration does not go with.
void check_calibration(const ConvertOptions& options);

/// Runs all jobs, a layer's when the model has shown its inputs. Matrices of
/// which it shows none (a table of embeddings alone, the experts' second
/// projections) are rounded to nearest.
void run_calibrated(
    std::vector<TensorJob>& jobs,
    CalibrationRun& run,
    int n_threads,
    const ConvertProgress& progress);

} // namespace qwen3_mlx
