// SPDX-License-Identifier: MIT
// Products of many rows, alone and by expert, against float64.
#include "kernels/cuda/expert_product_test.h"

namespace qwen3_mlx::cuda {
namespace {

class GemmTest : public ExpertProductTest {
 protected:
  void compare(const PackedLayout& layout, Float type, int n, Fused fused) {
    SCOPED_TRACE(describe(layout, type, n, fused));
    const double error =
        error_of(layout, type, n, fused, [&](const GemvArgs& args) {
          const GemmNeeds needs = gemm_needs(launcher_, args);
          const DeviceArray<float> workspace(needs.workspace);
          const DeviceArray<unsigned> counters(
              std::vector<unsigned>(needs.counters, 0));
          gemm(launcher_, args, workspace.get(), counters.get());
          for (const unsigned counter : counters.read()) {
            ASSERT_EQ(counter, 0U);
          }
        });
    // Weights are rounded to the type of x, as when they are made plain.
    EXPECT_LE(error, type == Float::bf16 ? 3.5e-3 : 5e-4);
  }
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
          {false, (mask & 1) != 0, (mask & 2) != 0, (mask & 4) != 0});
    }
  }
}

TEST_F(GemmTest, HandlesTheShapesOfModels) {
  compare(
      {2560, 9728, 4, 64, Float::bf16}, Float::bf16, 32, {.residual = true});
  compare({19456, 2560, 4, 64, Float::bf16}, Float::bf16, 16, {.gated = true});
}

TEST_F(GemmTest, SendsRowsToTheirExperts) {
  for (const int tokens : {1, 30, 333}) {
    SCOPED_TRACE(tokens);
    const int tile_rows = expert_tile_rows(tokens * kTopK, kExperts);
    EXPECT_LE(
        error_of_experts(
            tokens,
            tile_rows,
            [&](const GemvArgs& args, const GroupedRows& rows) {
              grouped_gemm(launcher_, args, rows);
            }),
        5e-3);
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
  const auto expected = normed(x.values, weight.values, 1e-6);
  EXPECT_LE(relative_error(decode_all(Float::bf16, y.read()), expected), 2e-3);
}

} // namespace
} // namespace qwen3_mlx::cuda
