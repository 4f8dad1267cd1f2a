// SPDX-License-Identifier: MIT
#include "convert/second_moment.h"

#include <gtest/gtest.h>

#include <random>

namespace qwen3_mlx {
namespace {

TEST(SecondMoment, IsTheMeanOfProducts) {
  std::mt19937 random(7);
  std::normal_distribution<float> normal;
  ThreadPool pool(2);
  for (const std::size_t n_columns : {1u, 3u, 4u, 5u, 31u, 64u}) {
    for (const std::size_t n_rows : {1u, 2u, 31u, 32u, 33u, 100u}) {
      std::vector<float> rows(n_rows * n_columns);
      for (auto& value : rows) {
        value = normal(random);
      }
      const auto found = second_moment(rows, n_columns, pool);
      ASSERT_EQ(found.size(), n_columns * n_columns);
      for (std::size_t a = 0; a < n_columns; ++a) {
        for (std::size_t b = 0; b < n_columns; ++b) {
          double sum = 0;
          for (std::size_t row = 0; row < n_rows; ++row) {
            sum +=
                double{rows[row * n_columns + a]} * rows[row * n_columns + b];
          }
          EXPECT_NEAR(
              found[a * n_columns + b],
              sum / static_cast<double>(n_rows),
              1e-5);
        }
      }
    }
  }
}

} // namespace
} // namespace qwen3_mlx
