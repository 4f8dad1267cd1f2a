// SPDX-License-Identifier: MIT
// The mean of x x^T over the rows of a matrix.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "base/thread_pool.h"

namespace qwen3_mlx {

/// `rows` holds rows of `n_columns` numbers after each other; returns
/// [n_columns, n_columns]. Sums in float32; the order does not depend on the
/// number of threads. MLX's own product is the BLAS it was built with, which in
/// its packages for Linux is the reference's, ten times as slow.
std::vector<float> second_moment(
    std::span<const float> rows,
    std::size_t n_columns,
    ThreadPool& pool);

} // namespace qwen3_mlx
