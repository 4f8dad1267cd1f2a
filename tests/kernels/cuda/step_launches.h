// SPDX-License-Identifier: MIT
// The launches of a decode step of one sequence, as a recording has them.
#pragma once

#include <string>
#include <vector>

#include "kernels/cuda/step_program.h"

namespace qwen3_mlx::cuda {

struct StepModel {
  int hidden = 256;
  int layers = 2;
  int intermediate = 512;
  int heads = 4;
  int kv_heads = 2;
  int head_dim = 64;
  int vocab = 1000;
  int bits = 4;
  int group = 64;
  bool has_bias = false; ///< Of queries, keys and values.
  int experts = 0;       ///< 0: the layers are dense.
  int chosen = 0;
  bool normalize = true;
  int router_bits = 8; ///< 16: elements.

  PackedLayout layout(int rows, int cols) const {
    return {rows, cols, bits, group, Float::bf16};
  }
  PackedLayout router_layout() const {
    return {
        experts, hidden, router_bits, router_bits == 16 ? 0 : 64, Float::bf16};
  }
  int qkv_rows() const {
    return (heads + 2 * kv_heads) * head_dim;
  }
};

/// Where weights and activations lie; only addresses unless something runs.
struct StepPlaces {
  struct Layer {
    const void* qkv;
    const void* out;
    const void* gate_up;
    const void* down;
    const void* router = nullptr;
  };
  std::vector<Layer> layers;
  const void* lm_head = nullptr;
  const void* norm = nullptr; ///< [hidden], of all norms.
  const void* head_norm = nullptr;
  const void* bias = nullptr;
  const float* periods = nullptr;
  void* stream = nullptr; ///< Read, and written in place.
  void* qkv = nullptr;
  void* attended = nullptr;
  void* gated = nullptr;
  void* router_logits = nullptr;
  std::uint32_t* chosen = nullptr;
  float* shares = nullptr;
  void* parts = nullptr;
  void* logits = nullptr;
  float* workspace = nullptr;
  unsigned* counters = nullptr;
};

inline std::vector<StepLaunch> experts_of(
    const StepModel& m,
    const StepPlaces& at,
    const StepPlaces::Layer& layer) {
  const GemvArgs router{
      .layout = m.router_layout(),
      .weight = layer.router,
      .x = at.stream,
      .y = at.router_logits,
      .norm = at.norm,
      .norm_eps = 1e-6F};
  GemvArgs gate_up{
      .layout = m.layout(2 * m.intermediate, m.hidden),
      .weight = layer.gate_up,
      .x = at.stream,
      .y = at.gated,
      .num_rows = m.chosen,
      .norm = at.norm,
      .norm_eps = 1e-6F,
      .gated = true,
      .experts = at.chosen,
      .num_experts = m.experts,
      .rows_per_x = m.chosen};
  GemvArgs down{
      .layout = m.layout(m.hidden, m.intermediate),
      .weight = layer.down,
      .x = at.gated,
      .y = at.parts,
      .num_rows = m.chosen,
      .experts = at.chosen,
      .num_experts = m.experts};
  return {
      router,
      RouteArgs{
          .logits = at.router_logits,
          .num_experts = m.experts,
          .k = m.chosen,
          .normalize = m.normalize,
          .experts = at.chosen,
          .weights = at.shares},
      gate_up,
      down,
      WeightedSumArgs{
          .residual = at.stream,
          .parts = at.parts,
          .weights = at.shares,
          .k = m.chosen,
          .cols = m.hidden,
          .out = at.stream}};
}

inline std::vector<StepLaunch>
launches_of(const StepModel& m, const StepPlaces& at) {
  const auto product =
      [&](const void* weight, int rows, int cols, const void* x, void* y) {
        return GemvArgs{
            .layout = m.layout(rows, cols), .weight = weight, .x = x, .y = y};
      };
  const auto normed = [&](GemvArgs args) {
    args.norm = at.norm;
    args.norm_eps = 1e-6F;
    return args;
  };
  std::vector<StepLaunch> launches;
  for (const auto& layer : at.layers) {
    auto qkv =
        normed(product(layer.qkv, m.qkv_rows(), m.hidden, at.stream, at.qkv));
    qkv.bias = m.has_bias ? at.bias : nullptr;
    launches.emplace_back(qkv);
    launches.emplace_back(AttentionLaunch{
        {.qkv = at.qkv,
         .out = at.attended,
         .num_heads = m.heads,
         .num_kv_heads = m.kv_heads,
         .head_dim = m.head_dim,
         .scale = 0.125F,
         .q_norm = at.head_norm,
         .k_norm = at.head_norm,
         .norm_eps = 1e-6F,
         .periods = at.periods,
         .workspace = at.workspace,
         .counters = at.counters}});
    auto out = product(
        layer.out, m.hidden, m.heads * m.head_dim, at.attended, at.stream);
    out.residual = at.stream;
    launches.emplace_back(out);
    if (m.experts > 0) {
      const auto sparse = experts_of(m, at, layer);
      launches.insert(launches.end(), sparse.begin(), sparse.end());
      continue;
    }
    auto gate_up = normed(product(
        layer.gate_up, 2 * m.intermediate, m.hidden, at.stream, at.gated));
    gate_up.gated = true;
    launches.emplace_back(gate_up);
    auto down =
        product(layer.down, m.hidden, m.intermediate, at.gated, at.stream);
    down.residual = at.stream;
    launches.emplace_back(down);
  }
  launches.emplace_back(
      normed(product(at.lm_head, m.vocab, m.hidden, at.stream, at.logits)));
  return launches;
}

} // namespace qwen3_mlx::cuda
