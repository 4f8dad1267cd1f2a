// SPDX-License-Identifier: MIT
// A mixture's two products of rows sorted by expert, against float64.
#pragma once

#include <algorithm>

#include "kernels/cuda/product_test.h"

namespace qwen3_mlx::cuda {

class ExpertProductTest : public ProductTest {
 protected:
  using Multiply = std::function<void(const GemvArgs&, const GroupedRows&)>;
  static constexpr int kExperts = 20;
  static constexpr int kTopK = 4;

  /// Relative error of tokens that go to random experts, by way of tiles of
  /// that many rows, and that are normed by the first product if `norm`.
  double error_of_experts(
      int tokens,
      int tile_rows,
      const Multiply& multiply,
      bool norm = false) {
    constexpr int E = kExperts;
    const int pairs = tokens * kTopK;
    const PackedLayout in{192, 256, 4, 64, Float::bf16}; // gate and up
    const PackedLayout out{136, 96, 8, 32, Float::bf16};
    const RandomMatrix gate_up(rng_, in, E);
    const RandomMatrix down(rng_, out, E);
    const PackedOnDevice gate_up_d(launcher_, gate_up, E);
    const PackedOnDevice down_d(launcher_, down, E);
    const auto P = static_cast<std::size_t>(pairs);
    std::vector<std::uint32_t> experts(P);
    std::uniform_int_distribution<std::uint32_t> any(0, E - 1);
    for (auto& expert : experts) { // some have none
      expert = std::min(any(rng_), any(rng_));
    }
    const auto x = Numbers::random(
        rng_, Float::bf16, static_cast<std::size_t>(tokens) * 256);
    const auto norm_weight = Numbers::random(rng_, Float::bf16, 256, 0.3F, 1);
    constexpr float eps = 1e-5F;
    const auto rows_of_x = norm
        ? normed(x.values, norm_weight.values, static_cast<double>(eps))
        : x.values;
    const DeviceArray<std::uint8_t> norm_d(norm_weight.bytes);
    const DeviceArray<std::uint32_t> experts_d(experts);
    const DeviceArray<std::uint8_t> x_d(x.bytes);
    const DeviceArray<int> sorted(P);
    const DeviceArray<int> num_tiles(1);
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
        tiles.get(),
        num_tiles.get());
    GroupedRows rows{
        .tiles = tiles.get(),
        .num_tiles = num_tiles.get(),
        .tile_rows = tile_rows,
        .in_rows = sorted.get(),
        .rows_per_x = kTopK};
    multiply(
        {.layout = in,
         .weight = gate_up_d.get(),
         .x = x_d.get(),
         .y = hidden.get(),
         .num_rows = pairs,
         .norm = norm ? norm_d.get() : nullptr,
         .norm_eps = eps,
         .gated = true,
         .num_experts = E},
        rows);
    rows.in_rows = nullptr;
    rows.out_rows = sorted.get();
    multiply(
        {.layout = out,
         .weight = down_d.get(),
         .x = hidden.get(),
         .y = y.get(),
         .num_rows = pairs,
         .num_experts = E},
        rows);
    const auto order = sorted.read();
    EXPECT_TRUE(std::is_sorted(order.begin(), order.end(), [&](int a, int b) {
      const auto ea = experts[static_cast<std::size_t>(a)];
      const auto eb = experts[static_cast<std::size_t>(b)];
      return ea < eb || (ea == eb && a < b);
    }));
    std::vector<double> expected;
    for (std::size_t pair = 0; pair < P; ++pair) {
      const auto e = std::size_t{experts[pair]};
      const double* const v = rows_of_x.data() + pair / kTopK * 256;
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
    return relative_error(decode_all(Float::bf16, y.read()), expected);
  }
};

} // namespace qwen3_mlx::cuda
