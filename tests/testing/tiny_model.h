// SPDX-License-Identifier: MIT
// The models of tests/goldens/parity, loaded on stock kernels in float32, and
// what tests ask of them.
#pragma once

#include <cmath>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <mlx/mlx.h>

#include "qwen3_mlx/model.h"
#include "testing/temp_dir.h"
#include "testing/tiny_checkpoint.h"

namespace qwen3_mlx::testing {

/// Of a logit, float32 against float32: the sums run in another order.
constexpr float logit_tolerance = 1e-4F;

inline std::filesystem::path parity_goldens() {
  return std::filesystem::path(QWEN3_MLX_TEST_DATA) / "parity";
}

inline LoadOptions float32_on_cpu(Kernels kernels) {
  LoadOptions options;
  options.device = mx::Device::cpu;
  options.dtype = mx::float32;
  options.kernels = kernels;
  options.exact = true;
  return options;
}

struct TinyModel {
  TinyCase golden;
  Model model;
};

inline LoadOptions stock_float32() {
  return float32_on_cpu(Kernels::stock);
}

inline TinyModel load_tiny_model(
    std::string_view name,
    const LoadOptions& options = stock_float32()) {
  auto golden = load_tiny_case(parity_goldens(), name);
  const TempDir folder;
  write_tiny_checkpoint(golden, folder.path());
  return {golden, load_model(folder.path(), options)};
}

/// [1, L] uint32.
inline mx::array as_batch(std::span<const std::uint32_t> ids) {
  return mx::array(
      ids.data(), mx::Shape{1, static_cast<int>(ids.size())}, mx::uint32);
}

/// Values of an array, row by row.
inline std::vector<float> values_of(mx::array x) {
  x = mx::contiguous(mx::astype(x, mx::float32));
  x.eval();
  return {x.data<float>(), x.data<float>() + x.size()};
}

/// Infinite when the sizes differ or a value is NaN.
inline float
max_abs_difference(const std::vector<float>& a, const std::vector<float>& b) {
  float largest = 0;
  for (std::size_t idx = 0; idx < a.size(); ++idx) {
    const float difference = idx < b.size()
        ? std::abs(a[idx] - b[idx])
        : std::numeric_limits<float>::infinity();
    // The negated form is true for NaN as well.
    if (!(difference <= largest)) {
      largest = std::isnan(difference) ? std::numeric_limits<float>::infinity()
                                       : difference;
    }
  }
  return a.size() == b.size() ? largest
                              : std::numeric_limits<float>::infinity();
}

/// A test's name from a case's: letters, digits and underscores.
inline std::string test_name(std::string name) {
  for (char& letter : name) {
    if (letter == '-') {
      letter = '_';
    }
  }
  return name;
}

} // namespace qwen3_mlx::testing
