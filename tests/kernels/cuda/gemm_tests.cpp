// SPDX-License-Identifier: MIT
// Products of many rows, alone and by expert, against float64.
#include <numeric>

#include "kernels/cuda/device_data.h"

namespace qwen3_mlx::cuda {
namespace {

struct Fused {
  bool bias = false;
  bool residual = false;
  bool gated = false;
};

double silu(double x) {
  return x / (1 + std::exp(-x));
}

class GemmTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!has_gpu()) {
      GTEST_SKIP() << "no GPU";
    }
    launcher_ = make_launcher();
  }

  void compare(const PackedLayout& layout, Float type, int n, Fused fused) {
    SCOPED_TRACE(
        "[" + std::to_string(layout.rows) + ", " + std::to_string(layout.cols) +
        "], " + std::to_string(layout.bits) + " bits, group " +
        std::to_string(layout.group) + ", type " +
        std::to_string(static_cast<int>(type)) + ", " + std::to_string(n) +
        " rows" + (fused.bias ? ", bias" : "") +
        (fused.residual ? ", residual" : "") + (fused.gated ? ", gated" : ""));
    const auto N = static_cast<std::size_t>(layout.rows);
    const auto K = static_cast<std::size_t>(layout.cols);
    const auto M = static_cast<std::size_t>(n);
    const RandomMatrix matrix(rng_, layout);
    const PackedOnDevice packed(launcher_, matrix);
    const auto x = Numbers::random(rng_, type, M * K);
    const auto bias = Numbers::random(rng_, type, N);
    const std::size_t out_cols = fused.gated ? N / 2 : N;
    const auto residual = Numbers::random(rng_, type, M * out_cols);
    const DeviceArray<std::uint8_t> x_d(x.bytes);
    const DeviceArray<std::uint8_t> bias_d(bias.bytes);
    const DeviceArray<std::uint8_t> residual_d(residual.bytes);
    const DeviceArray<std::uint8_t> y_d(M * out_cols * size_of(type));
    const GemvArgs args{
        .layout = layout,
        .weight = packed.get(),
        .x = x_d.get(),
        .y = y_d.get(),
        .type = type,
        .num_rows = n,
        .bias = fused.bias ? bias_d.get() : nullptr,
        .residual = fused.residual ? residual_d.get() : nullptr,
        .gated = fused.gated};
    const GemmNeeds needs = gemm_needs(launcher_, args);
    const DeviceArray<float> workspace(needs.workspace);
    const DeviceArray<unsigned> counters(
        std::vector<unsigned>(needs.counters, 0));
    gemm(launcher_, args, workspace.get(), counters.get());
    const auto got = decode_all(type, y_d.read());
    for (const unsigned counter : counters.read()) {
      ASSERT_EQ(counter, 0U);
    }

    std::vector<double> expected(M * out_cols);
    std::vector<double> row(N);
    for (std::size_t m = 0; m < M; ++m) {
      for (std::size_t r = 0; r < N; ++r) {
        const double* const w = matrix.values.data() + r * K;
        const double* const v = x.values.data() + m * K;
        row[r] =
            std::inner_product(w, w + K, v, fused.bias ? bias.values[r] : 0.0);
      }
      for (std::size_t c = 0; c < out_cols; ++c) {
        expected[m * out_cols + c] =
            (fused.gated ? silu(row[c]) * row[out_cols + c] : row[c]) +
            (fused.residual ? residual.values[m * out_cols + c] : 0.0);
      }
    }
    // Weights are rounded to the type of x, as when they are made plain.
    EXPECT_LE(
        relative_error(got, expected), type == Float::bf16 ? 3.5e-3 : 5e-4);
  }

  Launcher launcher_;
  std::mt19937 rng_{3};
};

TEST_F(GemmTest, HandlesEveryFormat) {
  for (const Float type : {Float::bf16, Float::f16}) {
    for (const int bits : {4, 8}) {
      for (const int group : {32, 64, 128}) {
        compare({264, 896, bits, group, type}, type, 20, {});
        compare({264, 896, bits, group, type}, type, 100, {});
      }
    }
    compare({264, 896, 16, 0, type}, type, 20, {});
    compare({264, 896, 16, 0, type}, type, 50, {});
  }
}

TEST_F(GemmTest, HandlesEveryNumberOfRows) {
  for (const int n : {1, 9, 16, 31, 32, 33, 63, 64, 65, 127, 128, 129, 300}) {
    compare({512, 640, 4, 64, Float::bf16}, Float::bf16, n, {});
    compare({512, 640, 16, 0, Float::bf16}, Float::bf16, n, {.residual = true});
  }
}

TEST_F(GemmTest, HandlesRemainders) {
  for (const int rows : {1, 8, 127, 128, 129, 1000}) {
    for (const int cols : {32, 96, 128, 1056}) {
      compare({rows, cols, 4, 32, Float::bf16}, Float::bf16, 40, {});
    }
  }
}

TEST_F(GemmTest, HandlesFusions) {
  for (const int n : {12, 48, 90}) {
    for (int mask = 0; mask < 8; ++mask) {
      compare(
          {528, 512, 4, 64, Float::bf16},
          Float::bf16,
          n,
          {(mask & 1) != 0, (mask & 2) != 0, (mask & 4) != 0});
    }
  }
}

TEST_F(GemmTest, HandlesTheShapesOfModels) {
  compare(
      {2560, 9728, 4, 64, Float::bf16}, Float::bf16, 32, {.residual = true});
  compare({19456, 2560, 4, 64, Float::bf16}, Float::bf16, 16, {.gated = true});
}

TEST_F(GemmTest, SendsRowsToTheirExperts) {
  const int E = 20;
  const int k = 4;
  for (const int tokens : {1, 30, 333}) {
    SCOPED_TRACE(tokens);
    const int pairs = tokens * k;
    const PackedLayout in{192, 256, 4, 64, Float::bf16}; // gate and up
    const PackedLayout out{136, 96, 8, 32, Float::bf16};
    const RandomMatrix gate_up(rng_, in, E);
    const RandomMatrix down(rng_, out, E);
    const PackedOnDevice gate_up_d(launcher_, gate_up, E);
    const PackedOnDevice down_d(launcher_, down, E);
    std::vector<std::uint32_t> experts(static_cast<std::size_t>(pairs));
    std::uniform_int_distribution<std::uint32_t> any(0, E - 1);
    for (auto& expert : experts) { // some have none
      expert = std::min(any(rng_), any(rng_));
    }
    const auto x = Numbers::random(
        rng_, Float::bf16, static_cast<std::size_t>(tokens) * 256);
    const DeviceArray<std::uint32_t> experts_d(experts);
    const DeviceArray<std::uint8_t> x_d(x.bytes);
    const auto P = static_cast<std::size_t>(pairs);
    const DeviceArray<int> sorted(P);
    const DeviceArray<int> counts(E);
    const DeviceArray<int> num_tiles(1);
    const int tile_rows = expert_tile_rows(pairs, E);
    const DeviceArray<ExpertTile> tiles(
        static_cast<std::size_t>(max_expert_tiles(pairs, E, tile_rows)));
    const DeviceArray<std::uint8_t> hidden(P * 96 * 2);
    const DeviceArray<std::uint8_t> y(P * 136 * 2);
    sort_by_expert(
        launcher_,
        experts_d.get(),
        pairs,
        E,
        tile_rows,
        sorted.get(),
        counts.get(),
        tiles.get(),
        num_tiles.get());
    GroupedRows rows{
        .tiles = tiles.get(),
        .num_tiles = num_tiles.get(),
        .tile_rows = tile_rows,
        .in_rows = sorted.get(),
        .rows_per_x = k};
    grouped_gemm(
        launcher_,
        {.layout = in,
         .weight = gate_up_d.get(),
         .x = x_d.get(),
         .y = hidden.get(),
         .num_rows = pairs,
         .gated = true},
        rows);
    rows.in_rows = nullptr;
    rows.out_rows = sorted.get();
    grouped_gemm(
        launcher_,
        {.layout = out,
         .weight = down_d.get(),
         .x = hidden.get(),
         .y = y.get(),
         .num_rows = pairs},
        rows);
    auto order = sorted.read();
    ASSERT_TRUE(std::is_sorted(order.begin(), order.end(), [&](int a, int b) {
      const auto ea = experts[static_cast<std::size_t>(a)];
      const auto eb = experts[static_cast<std::size_t>(b)];
      return ea < eb || (ea == eb && a < b);
    }));
    std::vector<double> expected;
    for (std::size_t pair = 0; pair < P; ++pair) {
      const auto e = std::size_t{experts[pair]};
      const double* const v = x.values.data() + pair / k * 256;
      std::vector<double> h(96);
      for (std::size_t c = 0; c < 96; ++c) {
        const double* const gate = gate_up.values.data() + (e * 192 + c) * 256;
        const double* const up = gate + 96 * 256;
        h[c] = silu(std::inner_product(gate, gate + 256, v, 0.0)) *
            std::inner_product(up, up + 256, v, 0.0);
      }
      for (std::size_t r = 0; r < 136; ++r) {
        const double* const w = down.values.data() + (e * 136 + r) * 96;
        expected.push_back(std::inner_product(w, w + 96, h.data(), 0.0));
      }
    }
    EXPECT_LE(
        relative_error(decode_all(Float::bf16, y.read()), expected), 5e-3);
  }
}

TEST_F(GemmTest, NormsRows) {
  const int n = 3;
  const int K = 2560;
  const auto x = Numbers::random(rng_, Float::bf16, n * K, 3);
  const auto weight = Numbers::random(rng_, Float::bf16, K, 0.3F, 1);
  const DeviceArray<std::uint8_t> x_d(x.bytes);
  const DeviceArray<std::uint8_t> weight_d(weight.bytes);
  const DeviceArray<std::uint8_t> y(n * K * 2);
  rms_norm(
      launcher_, x_d.get(), weight_d.get(), 1e-6F, Float::bf16, n, K, y.get());
  std::vector<double> expected;
  for (int row = 0; row < n; ++row) {
    const double* const v = x.values.data() + row * K;
    const double squares = std::inner_product(v, v + K, v, 0.0);
    for (int i = 0; i < K; ++i) {
      expected.push_back(
          v[i] / std::sqrt(squares / K + 1e-6) *
          weight.values[static_cast<std::size_t>(i)]);
    }
  }
  EXPECT_LE(relative_error(decode_all(Float::bf16, y.read()), expected), 2e-3);
}

} // namespace
} // namespace qwen3_mlx::cuda
