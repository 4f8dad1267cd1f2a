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

  PackedLayout layout(int rows, int cols) const {
    return {rows, cols, bits, group, Float::bf16};
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
  void* logits = nullptr;
  float* workspace = nullptr;
  unsigned* counters = nullptr;
};

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
