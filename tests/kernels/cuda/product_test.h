// SPDX-License-Identifier: MIT
// One product with random operands, by any kernel, against float64.
#pragma once

#include <functional>
#include <numeric>
#include <sstream>
#include <string>

#include "kernels/cuda/device_data.h"

namespace qwen3_mlx::cuda {

/// What is computed with the product.
struct Fused {
  bool norm = false;
  bool bias = false;
  bool residual = false;
  bool gated = false;
};

inline double silu(double x) {
  return x / (1 + std::exp(-x));
}

inline std::string
describe(const PackedLayout& layout, Float type, int n, const Fused& fused) {
  std::ostringstream text;
  text << "[" << layout.rows << ", " << layout.cols << "], " << layout.bits
       << " bits, group " << layout.group << ", scales "
       << static_cast<int>(layout.type) << ", activations "
       << static_cast<int>(type) << ", " << n << " rows"
       << (fused.norm ? ", norm" : "") << (fused.bias ? ", bias" : "")
       << (fused.residual ? ", residual" : "")
       << (fused.gated ? ", gated" : "");
  return text.str();
}

/// x, normed as rms_norm() does.
inline std::vector<double>
normed(std::vector<double> x, const std::vector<double>& weight, double eps) {
  const std::size_t K = weight.size();
  for (auto row = x.begin(); row != x.end();
       row += static_cast<std::ptrdiff_t>(K)) {
    const double squares =
        std::inner_product(row, row + static_cast<std::ptrdiff_t>(K), row, 0.0);
    const double factor = 1 / std::sqrt(squares / static_cast<double>(K) + eps);
    for (std::size_t k = 0; k < K; ++k) {
      row[static_cast<std::ptrdiff_t>(k)] *= factor * weight[k];
    }
  }
  return x;
}

class ProductTest : public testing::Test {
 protected:
  using Kernel = std::function<void(const GemvArgs&)>;

  void SetUp() override {
    if (!has_gpu()) {
      GTEST_SKIP() << "no GPU";
    }
    launcher_ = make_launcher();
  }

  /// Relative error of what `kernel` makes of arguments of that form.
  double error_of(
      const PackedLayout& layout,
      Float type,
      int n,
      const Fused& fused,
      const Kernel& kernel) {
    const auto N = static_cast<std::size_t>(layout.rows);
    const auto K = static_cast<std::size_t>(layout.cols);
    const auto M = static_cast<std::size_t>(n);
    const RandomMatrix matrix(rng_, layout);
    const PackedOnDevice packed(launcher_, matrix);
    const auto x = Numbers::random(rng_, type, M * K);
    const auto norm = Numbers::random(rng_, type, K, 0.3F, 1);
    const auto bias = Numbers::random(rng_, type, N);
    const std::size_t out_cols = fused.gated ? N / 2 : N;
    const auto residual = Numbers::random(rng_, type, M * out_cols);
    const DeviceArray<std::uint8_t> x_d(x.bytes);
    const DeviceArray<std::uint8_t> norm_d(norm.bytes);
    const DeviceArray<std::uint8_t> bias_d(bias.bytes);
    const DeviceArray<std::uint8_t> residual_d(residual.bytes);
    const DeviceArray<std::uint8_t> y_d(M * out_cols * size_of(type));
    constexpr float eps = 1e-5F;
    kernel(
        {.layout = layout,
         .weight = packed.get(),
         .x = x_d.get(),
         .y = y_d.get(),
         .type = type,
         .num_rows = n,
         .norm = fused.norm ? norm_d.get() : nullptr,
         .norm_eps = eps,
         .bias = fused.bias ? bias_d.get() : nullptr,
         .residual = fused.residual ? residual_d.get() : nullptr,
         .gated = fused.gated});
    const auto got = decode_all(type, y_d.read());

    const auto rows = fused.norm
        ? normed(x.values, norm.values, static_cast<double>(eps))
        : x.values;
    std::vector<double> expected(M * out_cols);
    std::vector<double> row(N);
    for (std::size_t m = 0; m < M; ++m) {
      for (std::size_t r = 0; r < N; ++r) {
        const double* const w = matrix.values.data() + r * K;
        row[r] = std::inner_product(
            w, w + K, rows.data() + m * K, fused.bias ? bias.values[r] : 0.0);
      }
      for (std::size_t c = 0; c < out_cols; ++c) {
        expected[m * out_cols + c] =
            (fused.gated ? silu(row[c]) * row[out_cols + c] : row[c]) +
            (fused.residual ? residual.values[m * out_cols + c] : 0.0);
      }
    }
    return relative_error(got, expected);
  }

  Launcher launcher_;
  std::mt19937 rng_{1};
};

} // namespace qwen3_mlx::cuda
