// SPDX-License-Identifier: MIT
// Products of few rows on GPUs of compute capability 9.0 against float64.
#include "kernels/cuda/warpgroup_few_rows.h"

#include "kernels/cuda/expert_product_test.h"

namespace qwen3_mlx::cuda {
namespace {

class FewRowsTest : public ExpertProductTest {
 protected:
  void SetUp() override {
    ExpertProductTest::SetUp();
    if (!IsSkipped() && !launcher_.has_warpgroups) {
      GTEST_SKIP() << "no GPU of compute capability 9.0";
    }
  }

  void compare(const PackedLayout& layout, int n, Fused fused) {
    SCOPED_TRACE(describe(layout, Float::bf16, n, fused));
    const double error =
        error_of(layout, Float::bf16, n, fused, [&](const GemvArgs& args) {
          few_rows_gemm(launcher_, args, {});
        });
    // A norm's weight rounds x.
    const double allowed = fused.norm ? 3.5e-3 : bound(Float::bf16);
    const double slack = n * layout.rows / (fused.gated ? 2 : 1) < 1000 ? 2 : 1;
    EXPECT_LE(error, slack * allowed);
  }
};

TEST_F(FewRowsTest, HandlesEveryFormat) {
  for (const int n : {5, 12, 20}) {
    for (const int bits : {4, 8}) {
      for (const int group : {32, 64, 128}) {
        compare({264, 896, bits, group, Float::bf16}, n, {});
      }
    }
    compare({264, 896, 16, 0, Float::bf16}, n, {});
  }
}

TEST_F(FewRowsTest, HandlesEveryNumberOfRows) {
  for (const int n : {1, 2, 7, 8, 9, 15, 16, 17, 23, 24, 25, 31, 32}) {
    compare({512, 640, 4, 64, Float::bf16}, n, {});
    compare({512, 640, 16, 0, Float::bf16}, n, {.residual = true});
  }
}

TEST_F(FewRowsTest, HandlesRemainders) {
  for (const int rows : {1, 8, 127, 128, 129, 1000}) {
    for (const int cols : {64, 128, 192, 1088, 1216}) {
      compare({rows, cols, 4, 64, Float::bf16}, 30, {});
      compare({rows, cols, 16, 0, Float::bf16}, 12, {.bias = true});
    }
  }
}

TEST_F(FewRowsTest, HandlesFusions) {
  for (const int n : {7, 12, 27}) {
    for (int mask = 0; mask < 16; ++mask) {
      compare(
          {528, 512, 4, 64, Float::bf16},
          n,
          {(mask & 1) != 0, (mask & 2) != 0, (mask & 4) != 0, (mask & 8) != 0});
    }
  }
}

TEST_F(FewRowsTest, HandlesTheShapesOfModels) {
  for (const int n : {8, 16, 32}) {
    compare({2560, 9728, 4, 64, Float::bf16}, n, {.residual = true});
    compare({2560, 4096, 16, 0, Float::bf16}, n, {.residual = true});
    compare(
        {19456, 2560, 4, 64, Float::bf16}, n, {.norm = true, .gated = true});
    compare({6144, 2560, 4, 64, Float::bf16}, n, {.norm = true});
    compare({128, 2048, 16, 0, Float::bf16}, n, {.norm = true});
  }
  // More tiles than multiprocessors.
  compare({30000, 512, 4, 64, Float::bf16}, 32, {.norm = true});
}

TEST_F(FewRowsTest, SendsRowsToTheirExperts) {
  for (const bool norm : {false, true}) {
    for (const int tokens : {1, 30, 333}) {
      for (const int tile_rows : {8, 16, 32}) {
        SCOPED_TRACE(
            std::to_string(tokens) + " in " + std::to_string(tile_rows) +
            (norm ? ", norm" : ""));
        const double error = error_of_experts(
            tokens,
            tile_rows,
            [&](const GemvArgs& args, const GroupedRows& rows) {
              few_rows_gemm(launcher_, args, rows);
            },
            norm);
        EXPECT_LE(error, norm ? 6e-3 : 5e-3);
      }
    }
  }
}

// Clusters share a tile's columns where there are few tiles and many columns.
TEST_F(FewRowsTest, SharesColumns) {
  for (const int bits : {4, 8}) {
    for (const int group : {32, 64, 128}) {
      compare({264, 4224, bits, group, Float::bf16}, 8, {.norm = true});
    }
  }
  for (const int n : {8, 16, 32}) {
    compare({528, 4224, 4, 64, Float::bf16}, n, {.norm = true, .gated = true});
    compare({530, 4224, 4, 64, Float::bf16}, n, {true, true, true});
  }
}

} // namespace
} // namespace qwen3_mlx::cuda
