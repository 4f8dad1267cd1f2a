// SPDX-License-Identifier: MIT
// The choice of greedy decoding against a plain search.
#include "kernels/cuda/most_likely.h"

#include <limits>

#include "kernels/cuda/device_data.h"

namespace qwen3_mlx::cuda {
namespace {

class MostLikelyTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!has_gpu()) {
      GTEST_SKIP() << "no GPU";
    }
    launcher_ = make_launcher();
  }

  void compare(const Numbers& logits, int rows, int cols) const {
    const auto n = static_cast<std::size_t>(rows);
    const DeviceArray<std::uint8_t> data(logits.bytes);
    const DeviceArray<std::uint32_t> ids(n);
    const DeviceArray<std::uint32_t> told(2 * n);
    const DeviceArray<std::uint8_t> workspace(most_likely_workspace(rows));
    const DeviceArray<unsigned> counters(std::vector<unsigned>(n, 0));
    most_likely(
        launcher_,
        {.logits = data.get(),
         .type = logits.type,
         .rows = rows,
         .cols = cols,
         .ids = ids.get(),
         .told = told.get(),
         .workspace = workspace.get(),
         .counters = counters.get()});
    std::vector<std::uint32_t> expected(2 * n);
    for (std::size_t row = 0; row < n; ++row) {
      const double* values =
          logits.values.data() + row * static_cast<std::size_t>(cols);
      double best = -std::numeric_limits<double>::infinity();
      expected[n + row] = 1;
      for (int col = 0; col < cols; ++col) {
        if (values[col] > best) {
          best = values[col];
          expected[row] = static_cast<std::uint32_t>(col);
        }
        if (!std::isfinite(values[col])) {
          expected[n + row] = 0;
        }
      }
    }
    const auto got = told.read();
    EXPECT_EQ(got, expected) << rows << " rows of " << cols;
    EXPECT_EQ(
        ids.read(),
        std::vector<std::uint32_t>(
            got.begin(), got.begin() + static_cast<std::ptrdiff_t>(n)));
    for (const unsigned counter : counters.read()) {
      EXPECT_EQ(counter, 0U);
    }
  }

  static void set(Numbers& numbers, std::size_t idx, float value) {
    auto* at = numbers.bytes.data() + idx * size_of(numbers.type);
    encode(numbers.type, value, at);
    numbers.values[idx] = decode(numbers.type, at);
  }

  Launcher launcher_;
  std::mt19937 rng_{4};
};

TEST_F(MostLikelyTest, FindsTheFirstGreatest) {
  for (const Float type : {Float::bf16, Float::f16, Float::f32}) {
    for (const int cols : {8, 16, 1000, 2056, 49152, 151936}) {
      for (const int rows : {1, 3, 64, 300}) {
        if (std::int64_t{rows} * cols > 20'000'000) {
          continue;
        }
        // In bfloat16 many are equal.
        compare(
            Numbers::random(
                rng_,
                type,
                static_cast<std::size_t>(rows) *
                    static_cast<std::size_t>(cols)),
            rows,
            cols);
      }
    }
  }
}

TEST_F(MostLikelyTest, TellsRowsThatAreNotFinite) {
  constexpr std::size_t cols = 4096;
  auto numbers = Numbers::random(rng_, Float::bf16, 5 * cols);
  set(numbers, 1 * cols + 7, std::numeric_limits<float>::quiet_NaN());
  set(numbers, 2 * cols + 4095, std::numeric_limits<float>::infinity());
  set(numbers, 3 * cols, -std::numeric_limits<float>::infinity());
  for (std::size_t col = 0; col < cols; ++col) {
    set(numbers, 4 * cols + col, std::numeric_limits<float>::quiet_NaN());
  }
  compare(numbers, 5, cols);
}

} // namespace
} // namespace qwen3_mlx::cuda
