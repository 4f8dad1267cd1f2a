// SPDX-License-Identifier: MIT
// Products of few rows against float64, every format, remainders and fusions.
#include "kernels/cuda/product_test.h"

namespace qwen3_mlx::cuda {
namespace {

class GemvTest : public ProductTest {
 protected:
  void compare(const PackedLayout& layout, Float type, int n, Fused fused) {
    SCOPED_TRACE(describe(layout, type, n, fused));
    const double error =
        error_of(layout, type, n, fused, [&](const GemvArgs& args) {
          gemv(launcher_, args);
        });
    // Few outputs may all be rounded by nearly half a unit of bfloat16.
    const double slack = n * layout.rows / (fused.gated ? 2 : 1) < 1000 ? 2 : 1;
    EXPECT_LE(error, slack * bound(type));
  }
};

TEST_F(GemvTest, HandlesEveryFormatAndType) {
  for (const Float type : {Float::bf16, Float::f16, Float::f32}) {
    for (const Float scales : {Float::bf16, Float::f16}) {
      for (const int bits : {4, 8}) {
        for (const int group : {32, 64, 128}) {
          for (const int n : {1, 3}) {
            compare({72, 896, bits, group, scales}, type, n, {});
            compare({72, 896, bits, group, scales}, type, n, {.norm = true});
          }
        }
      }
      if (scales == Float::f16 && type != Float::f16) {
        continue; // see takes_type()
      }
      compare({72, 896, 16, 0, scales}, type, 2, {});
      compare({72, 896, 16, 0, scales}, type, 2, {.norm = true});
    }
  }
}

TEST_F(GemvTest, HandlesSmallFloats) {
  for (const CodeForm form : {CodeForm::e4m3, CodeForm::e2m1}) {
    const auto layout = [&](int rows, int cols) {
      const int bits = form == CodeForm::e4m3 ? 8 : 4;
      return PackedLayout{rows, cols, bits, 32, Float::bf16, form};
    };
    for (const Float type : {Float::bf16, Float::f16, Float::f32}) {
      for (const int n : {1, 3, 8, 20}) {
        compare(layout(72, 896), type, n, {});
        compare(layout(72, 896), type, n, {.norm = true});
        compare(layout(528, 512), type, n, {.residual = true, .gated = true});
      }
    }
    for (const int rows : {1, 9, 100, 1001, 2560}) {
      for (const int cols : {32, 96, 576, 1024}) {
        compare(layout(rows, cols), Float::bf16, 1, {});
      }
    }
    if (form == CodeForm::e2m1) {
      compare(layout(72, 48), Float::f32, 1, {}); // half a pair of groups
    }
  }
}

TEST_F(GemvTest, HandlesRemaindersOfRowsAndColumns) {
  for (const int rows : {1, 7, 8, 9, 100, 1001, 2560}) {
    for (const int cols : {32, 64, 96, 576, 1024}) {
      compare({rows, cols, 4, 32, Float::bf16}, Float::bf16, 1, {});
      compare({rows, cols, 16, 0, Float::bf16}, Float::bf16, 5, {});
    }
  }
}

TEST_F(GemvTest, HandlesEveryNumberOfRows) {
  for (int n = 1; n <= 64; n += n < 18 ? 1 : 23) {
    compare({256, 640, 4, 64, Float::bf16}, Float::bf16, n, {.norm = true});
    compare({256, 640, 4, 64, Float::bf16}, Float::bf16, n, {.residual = true});
  }
}

TEST_F(GemvTest, HandlesFusions) {
  for (const int bits : {4, 8, 16}) {
    const PackedLayout layout{528, 512, bits, bits == 16 ? 0 : 64, Float::bf16};
    for (int mask = 0; mask < 16; ++mask) {
      compare(
          layout,
          Float::bf16,
          2,
          {(mask & 1) != 0, (mask & 2) != 0, (mask & 4) != 0, (mask & 8) != 0});
    }
  }
}

TEST_F(GemvTest, HandlesTheShapesOfModels) {
  for (const int n : {1, 8}) {
    compare(
        {2560, 9728, 4, 64, Float::bf16}, Float::bf16, n, {.residual = true});
    compare(
        {4096, 12288, 4, 64, Float::bf16}, Float::bf16, n, {.residual = true});
    compare({4096, 2560, 4, 64, Float::bf16}, Float::bf16, n, {.norm = true});
    compare(
        {6144, 2560, 4, 64, Float::bf16},
        Float::bf16,
        n,
        {.norm = true, .gated = true});
    compare({30016, 1024, 4, 64, Float::bf16}, Float::bf16, n, {.norm = true});
  }
}

TEST_F(GemvTest, SumsOfARowDependOnNothingElse) {
  const PackedLayout layout{2560, 2560, 4, 64, Float::bf16};
  const RandomMatrix matrix(rng_, layout);
  const PackedOnDevice packed(launcher_, matrix);
  const auto x = Numbers::random(rng_, Float::bf16, std::size_t{13} * 2560);
  const DeviceArray<std::uint8_t> x_d(x.bytes);
  const auto run = [&](int first, int n) {
    const DeviceArray<std::uint8_t> y(static_cast<std::size_t>(n) * 2560 * 2);
    gemv(
        launcher_,
        {.layout = layout,
         .weight = packed.get(),
         .x = x_d.get() + first * 2560 * 2,
         .y = y.get(),
         .num_rows = n});
    return y.read();
  };
  const auto all = run(0, 13);
  for (int row = 0; row < 13; ++row) {
    const auto alone = run(row, 1);
    EXPECT_TRUE(
        std::equal(alone.begin(), alone.end(), all.begin() + row * 2560 * 2))
        << row;
  }
}

TEST_F(GemvTest, PicksExperts) {
  const int E = 6;
  const PackedLayout layout{96, 256, 4, 64, Float::bf16};
  const RandomMatrix stack(rng_, layout, E);
  const PackedOnDevice packed(launcher_, stack, E);
  const std::vector<std::uint32_t> experts{5, 0, 3, 3, 1, 2};
  const DeviceArray<std::uint32_t> experts_d(experts);
  const auto x = Numbers::random(rng_, Float::bf16, std::size_t{3} * 256);
  const DeviceArray<std::uint8_t> x_d(x.bytes);
  const DeviceArray<std::uint8_t> y_d(std::size_t{6} * 96 * 2);
  gemv(
      launcher_,
      {.layout = layout,
       .weight = packed.get(),
       .x = x_d.get(),
       .y = y_d.get(),
       .num_rows = 6,
       .experts = experts_d.get(),
       .num_experts = E,
       .rows_per_x = 2});
  std::vector<double> expected;
  for (std::size_t pair = 0; pair < 6; ++pair) {
    for (std::size_t r = 0; r < 96; ++r) {
      double sum = 0;
      for (std::size_t k = 0; k < 256; ++k) {
        sum += x.values[pair / 2 * 256 + k] *
            stack.values[(experts[pair] * 96 + r) * 256 + k];
      }
      expected.push_back(sum);
    }
  }
  EXPECT_LE(
      relative_error(decode_all(Float::bf16, y_d.read()), expected), 2e-3);
}

TEST_F(GemvTest, PacksAsTheLayoutSaysAndUnpacks) {
  for (const int bits : {4, 8, 16}) {
    for (const int group : {32, 64, 128}) {
      const PackedLayout layout{
          21, 384, bits, bits == 16 ? 0 : group, Float::bf16};
      const RandomMatrix matrix(rng_, layout);
      const PackedOnDevice packed(launcher_, matrix);
      const DeviceArray<float> out(std::size_t{21} * 384);
      unpack(launcher_, layout, packed.get(), Float::f32, out.get());
      const auto got = out.read();
      for (std::size_t i = 0; i < got.size(); ++i) {
        ASSERT_FLOAT_EQ(got[i], static_cast<float>(matrix.values[i])) << i;
      }
      const std::vector<std::uint32_t> ids{20, 0, 7, 4000000000U};
      const DeviceArray<std::uint32_t> ids_d(ids);
      const DeviceArray<float> rows(std::size_t{4} * 384);
      gather_rows(
          launcher_,
          layout,
          packed.get(),
          ids_d.get(),
          4,
          Float::f32,
          rows.get());
      const auto some = rows.read();
      for (std::size_t i = 0; i < 4; ++i) {
        const std::size_t row = std::min(ids[i], 20U);
        for (std::size_t k = 0; k < 384; ++k) {
          ASSERT_EQ(some[i * 384 + k], got[row * 384 + k]);
        }
      }
    }
  }
}

TEST_F(GemvTest, RoutesAndMixes) {
  const int n = 5;
  const int k = 4;
  for (const int E : {8, 60, 128}) {
    for (const bool normalize : {false, true}) {
      const auto logits = Numbers::random(
          rng_, Float::bf16, static_cast<std::size_t>(n * E), 2);
      const DeviceArray<std::uint8_t> logits_d(logits.bytes);
      const DeviceArray<std::uint32_t> experts(static_cast<std::size_t>(n * k));
      const DeviceArray<float> weights(static_cast<std::size_t>(n * k));
      route(
          launcher_,
          {.logits = logits_d.get(),
           .num_experts = E,
           .k = k,
           .normalize = normalize,
           .experts = experts.get(),
           .weights = weights.get()},
          n);
      const auto chosen = experts.read();
      const auto got = weights.read();
      for (int row = 0; row < n; ++row) {
        const double* of_row = logits.values.data() + row * E;
        double total = 0;
        for (int e = 0; e < E; ++e) {
          total += std::exp(of_row[e]);
        }
        std::vector<double> sorted(of_row, of_row + E);
        std::sort(sorted.rbegin(), sorted.rend());
        double of_chosen = 0;
        for (int j = 0; j < k; ++j) {
          of_chosen += std::exp(sorted[static_cast<std::size_t>(j)]);
        }
        for (int j = 0; j < k; ++j) {
          const auto at = static_cast<std::size_t>(row * k + j);
          ASSERT_LT(chosen[at], static_cast<unsigned>(E));
          const double logit = of_row[chosen[at]];
          EXPECT_EQ(logit, sorted[static_cast<std::size_t>(j)]);
          EXPECT_NEAR(
              double{got[at]},
              std::exp(logit) / (normalize ? of_chosen : total),
              1e-5);
        }
      }
    }
  }
  const auto residual = Numbers::random(rng_, Float::bf16, 2 * 300);
  const auto parts = Numbers::random(rng_, Float::bf16, 2 * 3 * 300);
  const std::vector<float> weights{0.5F, 0.25F, 0.25F, 0.1F, 0.2F, 0.7F};
  const DeviceArray<std::uint8_t> residual_d(residual.bytes);
  const DeviceArray<std::uint8_t> parts_d(parts.bytes);
  const DeviceArray<float> weights_d(weights);
  const DeviceArray<std::uint8_t> out(2 * 300 * 2);
  weighted_sum(
      launcher_,
      {.residual = residual_d.get(),
       .parts = parts_d.get(),
       .weights = weights_d.get(),
       .k = 3,
       .cols = 300,
       .out = out.get()},
      2);
  std::vector<double> expected;
  for (std::size_t i = 0; i < 600; ++i) {
    double sum = residual.values[i];
    for (std::size_t j = 0; j < 3; ++j) {
      sum += double{weights[i / 300 * 3 + j]} *
          parts.values[(i / 300 * 3 + j) * 300 + i % 300];
    }
    expected.push_back(sum);
  }
  EXPECT_LE(
      relative_error(decode_all(Float::bf16, out.read()), expected), 2e-3);
}

} // namespace
} // namespace qwen3_mlx::cuda
