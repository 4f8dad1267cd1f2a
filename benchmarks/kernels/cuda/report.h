// SPDX-License-Identifier: MIT
// What was measured, as lines and as JSON.
#pragma once

#include <string>
#include <vector>

namespace qwen3_mlx::cuda::bench {

/// One kernel, or a chain of them, alone.
struct KernelFigure {
  std::string model;
  std::string kernel;
  std::string shape; ///< Of the matrix, or the positions looked at.
  int rows = 1;
  bool overlap = true;
  double us = 0;
  double n_bytes = 0; ///< Read and written at least.
  double flops = 0;   ///< Additions and multiplications.
};

/// A whole step of a model.
struct StepFigure {
  std::string model;
  int bits = 4;
  int positions = 0;
  int rows = 1;
  bool overlap = true;
  double us = 0;
  double weight_bytes = 0;
};

/// Prints each figure as it comes.
class Report {
 public:
  Report(std::string gpu, double copy_gb_per_second, double matmul_tflops);

  void add(const KernelFigure& figure);
  void add(const StepFigure& figure);
  /// Throws std::runtime_error when the file cannot be written.
  void write(const std::string& path) const;

 private:
  std::string gpu_;
  double copy_rate_;
  double matmul_rate_; // 0: not known
  std::vector<KernelFigure> kernels_;
  std::vector<StepFigure> steps_;
};

} // namespace qwen3_mlx::cuda::bench
