// SPDX-License-Identifier: MIT
// A step as phases: what is translated, what is refused, and that every cell of
// a product is somebody's, once.
#include "kernels/cuda/step_program.h"

#include <gtest/gtest.h>

#include <memory>

#include "kernels/cuda/step_launches.h"

namespace qwen3_mlx::cuda {
namespace {

const StepModel sparse{
    .hidden = 2048,
    .intermediate = 768,
    .heads = 32,
    .kv_heads = 4,
    .head_dim = 128,
    .vocab = 151936,
    .experts = 128,
    .chosen = 8};

class StepProgramTest : public testing::Test {
 protected:
  // Addresses that nothing is read from or written to.
  StepPlaces places(int layers) {
    const auto place = [&] {
      memory_.push_back(std::make_unique<char[]>(1));
      return static_cast<void*>(memory_.back().get());
    };
    StepPlaces at;
    for (int i = 0; i < layers; ++i) {
      at.layers.push_back({place(), place(), place(), place(), place()});
    }
    at.lm_head = place();
    at.norm = place();
    at.head_norm = place();
    at.bias = place();
    at.periods = static_cast<const float*>(place());
    at.stream = place();
    at.qkv = place();
    at.attended = place();
    at.gated = place();
    at.router_logits = place();
    at.chosen = static_cast<std::uint32_t*>(place());
    at.shares = static_cast<float*>(place());
    at.parts = place();
    at.logits = place();
    return at;
  }

  std::optional<StepProgram> make(
      const std::vector<StepLaunch>& launches,
      const void* logits,
      int blocks = 132) {
    return StepProgram::make(launches, logits, blocks, [&](std::size_t n) {
      memory_.push_back(std::make_unique<char[]>(n));
      return static_cast<void*>(memory_.back().get());
    });
  }

 private:
  std::vector<std::unique_ptr<char[]>> memory_;
};

TEST_F(StepProgramTest, TranslatesAModel) {
  const StepModel model{
      .hidden = 2560,
      .layers = 3,
      .intermediate = 9728,
      .heads = 32,
      .kv_heads = 8,
      .head_dim = 128,
      .vocab = 151936};
  const auto at = places(model.layers);
  const auto program = make(launches_of(model, at), at.logits);
  ASSERT_TRUE(program);
  EXPECT_EQ(program->phases.size(), 16);
  EXPECT_EQ(program->weights.size(), 13);
  EXPECT_EQ(program->shapes.size(), 5);
  EXPECT_EQ(program->num_layers, 3);
  EXPECT_EQ(program->num_blocks, 132);
  EXPECT_EQ(program->hidden_size, 2560);
  // Who reads what: attention the phase before it, and so on.
  for (std::size_t idx = 1; idx < program->phases.size(); ++idx) {
    EXPECT_EQ(program->phases[idx].read_phase, static_cast<int>(idx) - 1);
    EXPECT_EQ(program->phases[idx].in, program->phases[idx - 1].out);
  }
  EXPECT_EQ(program->phases.front().embedding, at.stream);
  EXPECT_EQ(program->phases.back().out, nullptr);
  // Words serve all layers.
  EXPECT_EQ(program->phases[0].out, program->phases[5].out);
  EXPECT_NE(program->phases[2].out, program->phases[4].out);
}

TEST_F(StepProgramTest, TranslatesExperts) {
  const auto at = places(sparse.layers);
  const auto program = make(launches_of(sparse, at), at.logits);
  ASSERT_TRUE(program);
  EXPECT_EQ(program->phases.size(), 11);
  EXPECT_EQ(program->shapes.size(), 5);
  EXPECT_EQ(program->routing.num_experts, 128);
  EXPECT_EQ(program->routing.num_chosen, 8);
  EXPECT_EQ(program->routing.router, sparse.router_layout());
  const auto& gate_up = program->phases[3];
  const auto& down = program->phases[4];
  EXPECT_EQ(gate_up.router, at.layers[0].router);
  EXPECT_EQ(gate_up.norm, at.norm);
  EXPECT_GT(gate_up.num_parts, 0);
  EXPECT_EQ(down.router, nullptr);
  EXPECT_EQ(down.in, gate_up.out);
  EXPECT_EQ(program->phases[5].in, down.out);
  // Eight matrices below each other, then beside each other.
  const auto& high = program->shapes[static_cast<std::size_t>(gate_up.shape)];
  EXPECT_EQ(high.rows, 8 * 1536);
  EXPECT_EQ(high.matrix_pairs(), 96);
  EXPECT_EQ(high.run_blocks(), 16);
  EXPECT_EQ(high.expert_bytes, sparse.layout(1536, 2048).n_bytes());
  const auto& wide = program->shapes[static_cast<std::size_t>(down.shape)];
  EXPECT_EQ(wide.cols, 8 * 768);
  EXPECT_EQ(wide.matrix_pairs(), 128);
  EXPECT_EQ(wide.run_blocks(), 6);
  EXPECT_EQ(wide.expert_bytes, sparse.layout(2048, 768).n_bytes());
}

TEST_F(StepProgramTest, RefusesOtherExperts) {
  const auto at = places(sparse.layers);
  const auto refuses = [&](auto change) {
    auto launches = launches_of(sparse, at);
    change(launches);
    return !make(launches, at.logits);
  };
  const auto product = [](std::vector<StepLaunch>& launches,
                          std::size_t idx) -> GemvArgs& {
    return std::get<GemvArgs>(launches[idx]);
  };
  const auto route = [](std::vector<StepLaunch>& launches) -> RouteArgs& {
    return std::get<RouteArgs>(launches[4]);
  };
  const auto sum = [](std::vector<StepLaunch>& launches) -> WeightedSumArgs& {
    return std::get<WeightedSumArgs>(launches[7]);
  };
  EXPECT_FALSE(refuses([](auto&) {}));
  EXPECT_TRUE(refuses([&](auto& l) { product(l, 3).norm = nullptr; }));
  EXPECT_TRUE(refuses([&](auto& l) { product(l, 3).bias = at.bias; }));
  EXPECT_TRUE(refuses([&](auto& l) { route(l).logits = at.qkv; }));
  EXPECT_TRUE(refuses([&](auto& l) { route(l).num_experts = 64; }));
  EXPECT_TRUE(refuses([&](auto& l) { route(l).k = 4; }));
  EXPECT_TRUE(refuses([&](auto& l) { route(l).normalize = false; }));
  EXPECT_TRUE(refuses([&](auto& l) { product(l, 5).norm = at.bias; }));
  EXPECT_TRUE(refuses([&](auto& l) { product(l, 5).num_rows = 16; }));
  EXPECT_TRUE(refuses([&](auto& l) { product(l, 6).x = at.attended; }));
  EXPECT_TRUE(refuses([&](auto& l) { product(l, 6).layout.cols += 64; }));
  EXPECT_TRUE(refuses([&](auto& l) { sum(l).parts = at.gated; }));
  EXPECT_TRUE(refuses([&](auto& l) { sum(l).residual = at.qkv; }));
  EXPECT_TRUE(refuses([&](auto& l) { l.erase(l.begin() + 7); }));
}

TEST_F(StepProgramTest, SharesOutEveryCellOnce) {
  for (const StepModel& model :
       {StepModel{},
        StepModel{
            .hidden = 896, .intermediate = 4864, .heads = 14, .vocab = 151936},
        StepModel{
            .hidden = 1024,
  .intermediate = 3072,
  .heads = 16,
  .kv_heads = 8,
  .head_dim = 128,
  .vocab = 151936},
        sparse,
        StepModel{
            .hidden = 5120,
  .intermediate = 25600,
  .heads = 64,
  .kv_heads = 8,
  .head_dim = 128,
  .vocab = 151936}}) {
    for (const int max_blocks : {1, 2, 78, 114, 132, 144}) {
      if (max_blocks < 78 && model.vocab > 10000) {
        continue; // more rows a block than a byte counts
      }
      const auto at = places(model.layers);
      const auto program = make(launches_of(model, at), at.logits, max_blocks);
      if (model.kv_heads > max_blocks) {
        EXPECT_FALSE(program);
        continue;
      }
      ASSERT_TRUE(program);
      EXPECT_LE(program->num_blocks, max_blocks);
      for (const StepShape& shape : program->shapes) {
        std::vector<int> count(static_cast<std::size_t>(shape.num_cells()));
        for (int block = 0; block < program->num_blocks; ++block) {
          const auto cells = cells_of_block(shape, block, program->num_blocks);
          int end = cells.begin;
          for (int warp = 0; warp < kStepWarps; ++warp) {
            const auto own = cells_of_warp(cells, warp);
            EXPECT_EQ(own.begin, end);
            end = own.end;
            for (int cell = own.begin; cell < own.end; ++cell) {
              ++count[static_cast<std::size_t>(cell)];
              if (shape.output == StepOutput::parts) {
                EXPECT_EQ(
                    block_of_cell(shape, cell, program->num_blocks), block);
              }
            }
            EXPECT_LE(
                own.begin == own.end ? 1
                                     : (own.end - 1) / shape.col_blocks() -
                        own.begin / shape.col_blocks() + 1,
                shape.slots);
          }
          EXPECT_EQ(end, cells.end);
          EXPECT_TRUE(!shape.is_gated() || cells.begin < cells.end);
        }
        EXPECT_EQ(
            std::ranges::count(count, 1), static_cast<long>(count.size()));
      }
    }
  }
}

TEST_F(StepProgramTest, RefusesWhatTheKernelLacks) {
  const StepModel model;
  const auto at = places(model.layers);
  const auto refuses = [&](auto change) {
    auto launches = launches_of(model, at);
    change(launches);
    return !make(launches, at.logits);
  };
  const auto product = [](std::vector<StepLaunch>& launches,
                          std::size_t idx) -> GemvArgs& {
    return std::get<GemvArgs>(launches[idx]);
  };
  const auto attention =
      [](std::vector<StepLaunch>& launches) -> DecodeAttentionArgs& {
    return std::get<AttentionLaunch>(launches[6]).args;
  };
  EXPECT_FALSE(refuses([](auto&) {}));
  EXPECT_TRUE(refuses([&](auto& l) { product(l, 0).num_rows = 2; }));
  EXPECT_TRUE(refuses([&](auto& l) { product(l, 3).layout.bits = 8; }));
  EXPECT_TRUE(refuses([&](auto& l) { product(l, 3).layout.group = 32; }));
  EXPECT_TRUE(refuses([&](auto& l) { product(l, 0).type = Float::f16; }));
  EXPECT_TRUE(refuses([&](auto& l) { product(l, 4).layout.cols -= 64; }));
  EXPECT_TRUE(refuses([&](auto& l) { product(l, 2).residual = at.qkv; }));
  EXPECT_TRUE(refuses([&](auto& l) { product(l, 5).x = at.gated; }));
  EXPECT_TRUE(refuses([&](auto& l) { product(l, 4).x = at.qkv; }));
  EXPECT_TRUE(refuses([&](auto& l) { attention(l).window = 128; }));
  EXPECT_TRUE(refuses([&](auto& l) { attention(l).num_heads = 32; }));
  EXPECT_TRUE(refuses([](auto& l) { l.pop_back(); }));
  EXPECT_TRUE(refuses([](auto& l) { l.erase(l.begin() + 3); }));
  EXPECT_FALSE(make({}, at.logits));
}

} // namespace
} // namespace qwen3_mlx::cuda
