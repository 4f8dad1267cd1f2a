// SPDX-License-Identifier: MIT
// Pieces of attention in float64.
#pragma once

#include <cmath>
#include <cstddef>
#include <vector>

namespace qwen3_mlx::cuda {

inline std::vector<float> rope_periods(int head_dim) {
  std::vector<float> periods(static_cast<std::size_t>(head_dim) / 2);
  for (std::size_t i = 0; i < periods.size(); ++i) {
    periods[i] = static_cast<float>(
        std::pow(1e4, 2 * static_cast<double>(i) / head_dim));
  }
  return periods;
}

/// A head at a position: normed with `norm` unless that is empty, then rotated.
inline std::vector<double> prepared_head(
    const double* from,
    const std::vector<double>& norm,
    const std::vector<float>& periods,
    int position) {
  const std::size_t half = periods.size();
  std::vector<double> v(from, from + 2 * half);
  if (!norm.empty()) {
    double squares = 0;
    for (const double value : v) {
      squares += value * value;
    }
    const double factor =
        1 / std::sqrt(squares / static_cast<double>(v.size()) + 1e-6);
    for (std::size_t d = 0; d < v.size(); ++d) {
      v[d] *= factor * norm[d];
    }
  }
  std::vector<double> out(v.size());
  for (std::size_t i = 0; i < half; ++i) {
    const double angle = position / double{periods[i]};
    out[i] = v[i] * std::cos(angle) - v[i + half] * std::sin(angle);
    out[i + half] = v[i + half] * std::cos(angle) + v[i] * std::sin(angle);
  }
  return out;
}

} // namespace qwen3_mlx::cuda
