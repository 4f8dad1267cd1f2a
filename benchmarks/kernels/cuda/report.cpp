// SPDX-License-Identifier: MIT
#include "report.h"

#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <utility>

namespace qwen3_mlx::cuda::bench {

namespace {

double gb_per_second(double n_bytes, double us) {
  return n_bytes / us * 1e-3;
}

double tflops(const KernelFigure& figure) {
  return figure.flops / figure.us * 1e-6;
}

double tokens_per_second(const StepFigure& figure) {
  return figure.rows * 1e6 / figure.us;
}

} // namespace

Report::Report(std::string gpu, double copy_gb_per_second, double matmul_tflops)
    : gpu_(std::move(gpu)), copy_rate_(copy_gb_per_second),
      matmul_rate_(matmul_tflops) {
  std::printf("%s, copy %.0f GB/s\n", gpu_.c_str(), copy_rate_);
}

void Report::add(const KernelFigure& figure) {
  kernels_.push_back(figure);
  const double rate = gb_per_second(figure.n_bytes, figure.us);
  std::printf(
      "%-8s %-18s %-16s x%-4d %s %8.2f us %6.0f GB/s %5.1f%% of copy "
      "%6.1f TFLOP/s\n",
      figure.model.c_str(),
      figure.kernel.c_str(),
      figure.shape.c_str(),
      figure.rows,
      figure.overlap ? "overlap" : "plain  ",
      figure.us,
      rate,
      100 * rate / copy_rate_,
      tflops(figure));
  std::fflush(stdout);
}

void Report::add(const StepFigure& figure) {
  steps_.push_back(figure);
  std::printf(
      "STEP %-8s %2d bit, %5d positions, %2d rows, %s %9.1f us = %7.0f "
      "tokens/s, weights at %5.0f GB/s\n",
      figure.model.c_str(),
      figure.bits,
      figure.positions,
      figure.rows,
      figure.overlap ? "overlap" : "plain  ",
      figure.us,
      tokens_per_second(figure),
      gb_per_second(figure.weight_bytes, figure.us));
  std::fflush(stdout);
}

void Report::write(const std::string& path) const {
  nlohmann::ordered_json document{
      {"gpu", gpu_},
      {"copy_gb_per_second", copy_rate_},
      {"matmul_tflops", matmul_rate_},
      {"kernels", nlohmann::ordered_json::array()},
      {"steps", nlohmann::ordered_json::array()}};
  for (const auto& each : kernels_) {
    document["kernels"].push_back(
        {{"model", each.model},
         {"kernel", each.kernel},
         {"shape", each.shape},
         {"rows", each.rows},
         {"overlap", each.overlap},
         {"us", each.us},
         {"gb_per_second", gb_per_second(each.n_bytes, each.us)},
         {"tflops", tflops(each)}});
  }
  for (const auto& each : steps_) {
    document["steps"].push_back(
        {{"model", each.model},
         {"bits", each.bits},
         {"positions", each.positions},
         {"rows", each.rows},
         {"overlap", each.overlap},
         {"us", each.us},
         {"tokens_per_second", tokens_per_second(each)},
         {"weight_gb_per_second", gb_per_second(each.weight_bytes, each.us)}});
  }
  std::ofstream file(path);
  file << document.dump(1) << '\n';
  if (!file.flush()) {
    throw std::runtime_error(path + ": cannot be written");
  }
}

} // namespace qwen3_mlx::cuda::bench
