// SPDX-License-Identifier: MIT
// Packing rows so that what they are multiplied with gives the least error,
// not so that each number is nearest.
//
// For a row w and inputs x with H = E[x x^T] the squared error of the output is
// (w - v)^T H (w - v). Numbers are rounded from left to right, and what each
// rounding does to the output is made up for by the numbers to its right
// (Optimal Brain Surgeon; arXiv 2210.17323). The scale and bias of a group are
// chosen by a search that weighs each number by what its error costs, so that
// outliers that no input meets are clipped (arXiv 2306.00978).
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "convert/quantizer.h"
#include "mlx/array.h"

namespace qwen3_mlx {

/// How the error of one number is made up for by later ones.
class ErrorFeedback {
 public:
  /// `moment` [in, in]: H. `damping`, times the mean of H's diagonal, is added
  /// to it: the larger, the less is made up for.
  ErrorFeedback(const mx::array& moment, double damping);

  std::size_t size() const {
    return size_;
  }
  /// U of H^-1 = U^T U, from its diagonal on: what a rounding error of number
  /// `idx`, divided by row(idx)[0], takes away from number idx + k is
  /// row(idx)[k].
  const float* row(std::size_t idx) const {
    return upper_.data() + idx * size_ + idx;
  }
  /// What a squared error of number `idx` costs once later numbers made up
  /// for it.
  float cost(std::size_t idx) const {
    return costs_[idx];
  }

 private:
  std::size_t size_;
  std::vector<float> upper_;
  std::vector<float> costs_;
};

/// Affine, in MLX's packing.
class CalibratedQuantizer {
 public:
  /// `format` must be affine; `dtype` is that of scales and biases.
  CalibratedQuantizer(
      QuantFormat format,
      DType dtype,
      std::shared_ptr<const ErrorFeedback> feedback);

  /// `row` holds whole groups and is used up.
  void quantize_row(std::span<float> row, PackedRow out) const;

 private:
  QuantFormat format_;
  DType dtype_;
  std::shared_ptr<const ErrorFeedback> feedback_;
};

/// The scale and bias of a group of affine quantization.
struct AffineGrid {
  float scale;
  float bias;
};

/// Those with the least sum of costs[i] * (values[i] - rounded)^2 among the
/// candidates of a search; both are numbers of `dtype`.
AffineGrid search_group(
    std::span<const float> values,
    std::span<const float> costs,
    int bits,
    DType dtype);

/// Puts what search_group() rounds them to in the place of `values`.
void round_to_group(
    std::span<float> values,
    std::span<const float> costs,
    int bits,
    DType dtype);

/// Sum of costs[i] * (values[i] - rounded)^2.
double group_error(
    std::span<const float> values,
    std::span<const float> costs,
    int bits,
    AffineGrid group);

} // namespace qwen3_mlx
