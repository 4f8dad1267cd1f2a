// SPDX-License-Identifier: MIT
// Arrays for tests: random ones, and how far two are apart.
#pragma once

#include <cstdint>

#include "mlx/array.h"
#include "mlx/ops.h"
#include "mlx/random.h"

namespace qwen3_mlx::testing {
namespace mx = mlx::core;

inline mx::array normal(mx::Shape shape, std::uint64_t seed) {
  auto values =
      mx::random::normal(std::move(shape), mx::float32, mx::random::key(seed));
  values.eval();
  return values;
}

/// Greatest absolute difference; infinity when the shapes differ.
inline float max_difference(const mx::array& a, const mx::array& b) {
  if (a.shape() != b.shape()) {
    return std::numeric_limits<float>::infinity();
  }
  return mx::max(
             mx::abs(mx::astype(a, mx::float32) - mx::astype(b, mx::float32)))
      .item<float>();
}

/// Euclidean norm of the difference over that of `expected`.
inline float relative_l2(const mx::array& actual, const mx::array& expected) {
  const auto wanted = mx::astype(expected, mx::float32);
  const auto difference = mx::astype(actual, mx::float32) - wanted;
  return mx::sqrt(mx::sum(mx::square(difference)) / mx::sum(mx::square(wanted)))
      .item<float>();
}

} // namespace qwen3_mlx::testing
