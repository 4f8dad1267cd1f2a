// SPDX-License-Identifier: MIT
// Products on GPUs of compute capability 9.0 against float64.
#include "kernels/cuda/warpgroup_gemm.h"

#include "kernels/cuda/expert_product_test.h"

namespace qwen3_mlx::cuda {
namespace {

class WarpgroupGemmTest : public ExpertProductTest {
 protected:
  void SetUp() override {
    ExpertProductTest::SetUp();
    if (!IsSkipped() && !launcher_.has_warpgroups) {
      GTEST_SKIP() << "no GPU of compute capability 9.0";
    }
  }

  void multiply(
      const GemvArgs& with_norm,
      ArrangedForm form,
      const GroupedRows& grouped) {
    GemvArgs args = with_norm;
    const int tiles = grouped.tiles != nullptr
        ? max_expert_tiles(args.num_rows, kExperts, form.tile_rows)
        : (args.num_rows + form.tile_rows - 1) / form.tile_rows;
    const DeviceArray<std::uint8_t> arranged(
        static_cast<std::size_t>(tiles) * form.tile_bytes());
    arrange_rows(
        launcher_,
        {.layout = args.layout,
         .form = form,
         .x = args.x,
         .num_rows = args.num_rows,
         .norm = args.norm,
         .norm_eps = args.norm_eps,
         .grouped = grouped,
         .to = arranged.get()},
        tiles);
    args.x = nullptr;
    args.norm = nullptr;
    const GemmNeeds needs = warpgroup_gemm_needs(launcher_, args, form, tiles);
    const DeviceArray<float> workspace(needs.workspace);
    const DeviceArray<unsigned> counters(
        std::vector<unsigned>(needs.counters, 0));
    warpgroup_gemm(
        launcher_,
        args,
        form,
        arranged.get(),
        grouped,
        workspace.get(),
        counters.get());
    for (const unsigned counter : counters.read()) {
      ASSERT_EQ(counter, 0U);
    }
  }

  void compare(const PackedLayout& layout, int n, Fused fused) {
    SCOPED_TRACE(describe(layout, Float::bf16, n, fused));
    const double error =
        error_of(layout, Float::bf16, n, fused, [&](const GemvArgs& args) {
          multiply(args, arranged_form(layout, n), {});
        });
    // Beyond 64 rows weights are rounded to bfloat16; a norm rounds x.
    const bool rounds_weights = !layout.is_plain() && n > 64;
    const double allowed = rounds_weights && fused.norm ? 5e-3
        : rounds_weights || fused.norm                  ? 3.5e-3
                                                        : bound(Float::bf16);
    const double slack = n * layout.rows / (fused.gated ? 2 : 1) < 1000 ? 2 : 1;
    EXPECT_LE(error, slack * allowed);
  }
};

TEST_F(WarpgroupGemmTest, HandlesEveryFormat) {
  for (const int n : {9, 20, 100}) {
    for (const int bits : {4, 8}) {
      for (const int group : {32, 64, 128}) {
        compare({264, 896, bits, group, Float::bf16}, n, {});
      }
    }
    compare({264, 896, 16, 0, Float::bf16}, n, {});
  }
}

TEST_F(WarpgroupGemmTest, HandlesEveryNumberOfRows) {
  for (const int n :
       {1, 7, 8, 9, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 300}) {
    compare({512, 640, 4, 64, Float::bf16}, n, {});
    compare({512, 640, 16, 0, Float::bf16}, n, {.residual = true});
  }
}

TEST_F(WarpgroupGemmTest, HandlesRemainders) {
  for (const int rows : {1, 8, 127, 128, 129, 1000}) {
    for (const int cols : {64, 128, 192, 1088}) {
      compare({rows, cols, 4, 64, Float::bf16}, 40, {});
      compare({rows, cols, 16, 0, Float::bf16}, 12, {.bias = true});
    }
  }
}

TEST_F(WarpgroupGemmTest, HandlesFusions) {
  for (const int n : {12, 48, 90}) {
    for (int mask = 0; mask < 16; ++mask) {
      compare(
          {528, 512, 4, 64, Float::bf16},
          n,
          {(mask & 1) != 0, (mask & 2) != 0, (mask & 4) != 0, (mask & 8) != 0});
    }
  }
}

TEST_F(WarpgroupGemmTest, HandlesTheShapesOfModels) {
  compare({2560, 9728, 4, 64, Float::bf16}, 32, {.residual = true});
  compare({19456, 2560, 4, 64, Float::bf16}, 16, {.gated = true});
  compare({6144, 2560, 4, 64, Float::bf16}, 100, {.norm = true});
}

TEST_F(WarpgroupGemmTest, SendsRowsToTheirExperts) {
  for (const int tokens : {1, 30, 333}) {
    for (const int tile_rows : {8, 16, 32, 64, 128}) {
      SCOPED_TRACE(std::to_string(tokens) + " in " + std::to_string(tile_rows));
      EXPECT_LE(
          error_of_experts(
              tokens,
              tile_rows,
              [&](const GemvArgs& args, const GroupedRows& rows) {
                multiply(args, arranged_form(args.layout, tile_rows), rows);
              }),
          5e-3);
    }
  }
}

} // namespace
} // namespace qwen3_mlx::cuda
