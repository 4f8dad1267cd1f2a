// SPDX-License-Identifier: MIT
#include "convert/second_moment.h"

#include <algorithm>
#include <array>

namespace qwen3_mlx {
namespace {

// Rows that are read again for each strip of the result: with 4,096 columns
// they take 512 KiB, a share of the second cache.
constexpr std::size_t row_block = 32;
// Rows of the result that are summed together, so that each number that is
// loaded is used as often.
constexpr std::size_t strip = 4;

/// to[k] += a * factors_a[k] + b * factors_b[k]. None of the arrays overlap.
void add_two(
    const float* __restrict a,
    const float* __restrict b,
    std::array<float, strip> factors_a,
    std::array<float, strip> factors_b,
    std::size_t count,
    float* __restrict to0,
    float* __restrict to1,
    float* __restrict to2,
    float* __restrict to3) {
  for (std::size_t idx = 0; idx < count; ++idx) {
    to0[idx] += factors_a[0] * a[idx] + factors_b[0] * b[idx];
    to1[idx] += factors_a[1] * a[idx] + factors_b[1] * b[idx];
    to2[idx] += factors_a[2] * a[idx] + factors_b[2] * b[idx];
    to3[idx] += factors_a[3] * a[idx] + factors_b[3] * b[idx];
  }
}

std::array<float, strip> factors_of(const float* row) {
  return {row[0], row[1], row[2], row[3]};
}

/// Adds x x^T of `count` rows to rows [first, first + strip) of `out`, from
/// column `first` on; the rest follows from symmetry.
void add_strip(
    const float* rows,
    std::size_t count,
    std::size_t n_columns,
    std::size_t first,
    float* out) {
  float* to = out + first * n_columns + first;
  // An odd row is added with nothing.
  const std::vector<float> nothing(count % 2 == 0 ? 0 : n_columns - first);
  for (std::size_t row = 0; row < count; row += 2) {
    const float* a = rows + row * n_columns + first;
    const bool is_last = row + 1 == count;
    const float* b = is_last ? nothing.data() : a + n_columns;
    add_two(
        a,
        b,
        factors_of(a),
        is_last ? std::array<float, strip>{} : factors_of(b),
        n_columns - first,
        to,
        to + n_columns,
        to + 2 * n_columns,
        to + 3 * n_columns);
  }
}

} // namespace

std::vector<float> second_moment(
    std::span<const float> rows,
    std::size_t n_columns,
    ThreadPool& pool) {
  const auto n_rows = rows.size() / n_columns;
  std::vector<float> out(n_columns * n_columns);
  const auto n_strips = n_columns / strip;
  for (std::size_t row = 0; row < n_rows; row += row_block) {
    const auto count = std::min(row_block, n_rows - row);
    const float* block = rows.data() + row * n_columns;
    pool.parallel_for(static_cast<int>(n_strips), [&](int chunk) {
      add_strip(
          block,
          count,
          n_columns,
          static_cast<std::size_t>(chunk) * strip,
          out.data());
    });
    for (std::size_t first = n_strips * strip; first < n_columns; ++first) {
      for (std::size_t idx = 0; idx < count; ++idx) {
        const float* a = block + idx * n_columns;
        for (std::size_t column = first; column < n_columns; ++column) {
          out[first * n_columns + column] += a[first] * a[column];
        }
      }
    }
  }
  const auto scale = 1.0f / static_cast<float>(n_rows);
  for (std::size_t row = 0; row < n_columns; ++row) {
    for (std::size_t column = row; column < n_columns; ++column) {
      const float value = out[row * n_columns + column] * scale;
      out[row * n_columns + column] = value;
      out[column * n_columns + row] = value;
    }
  }
  return out;
}

} // namespace qwen3_mlx
