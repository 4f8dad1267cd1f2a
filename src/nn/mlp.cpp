// SPDX-License-Identifier: MIT
#include "qwen3_mlx/nn/mlp.h"

#include <array>

#include "kernels/ops.h"
#include "mlx/ops.h"
#include "weights/weights.h"

namespace qwen3_mlx {

namespace {

ops::Experts experts_of(const SwitchMlp& w) {
  return {
      w.gate_up_proj ? *w.gate_up_proj : *w.gate_proj,
      w.up_proj ? &*w.up_proj : nullptr,
      w.down_proj};
}

} // namespace

Mlp::Mlp(
    const Weights& w,
    int hidden_size,
    int intermediate_size,
    bool has_bias)
    : gate_up_proj(
          w,
          hidden_size,
          {{"gate_proj", intermediate_size}, {"up_proj", intermediate_size}},
          has_bias),
      gate_proj(gate_up_proj[0]), up_proj(gate_up_proj[1]),
      down_proj(w.sub("down_proj"), intermediate_size, hidden_size, has_bias) {}

mx::array Mlp::operator()(const mx::array& x, const RMSNorm& norm) const {
  return down_proj.add_to(x, gate_up_proj.swiglu(x, norm));
}

mx::array Mlp::forward(const mx::array& x) const {
  return down_proj(gate_up_proj.swiglu(x));
}

mx::array Mlp::forward(const mx::array& x, const RMSNorm& norm) const {
  return down_proj(gate_up_proj.swiglu(x, norm));
}

SwitchMlp::SwitchMlp(
    const Weights& w,
    int num_experts,
    int hidden_size,
    int intermediate_size)
    : gate_up_proj(w.merged_experts(
          std::array<std::string_view, 2>{"gate_proj", "up_proj"},
          num_experts,
          intermediate_size,
          hidden_size)),
      down_proj(w.sub("down_proj")
                    .experts(num_experts, hidden_size, intermediate_size)) {
  if (!gate_up_proj) {
    const auto take = [&](std::string_view name) {
      return w.sub(name).experts(num_experts, intermediate_size, hidden_size);
    };
    gate_proj = take("gate_proj");
    up_proj = take("up_proj");
  }
}

mx::array
SwitchMlp::operator()(const mx::array& x, const mx::array& experts) const {
  return ops::experts_mlp(x, experts_of(*this), experts);
}

SparseMoeBlock::SparseMoeBlock(const ModelArgs& args, const Weights& w)
    : num_experts(args.num_experts),
      num_experts_per_tok(args.num_experts_per_tok),
      norm_topk_prob(args.norm_topk_prob),
      gate(w.sub("gate"), args.hidden_size, args.num_experts),
      switch_mlp(
          w.sub("switch_mlp"),
          args.num_experts,
          args.hidden_size,
          args.moe_intermediate_size) {
  if (args.shared_expert_intermediate_size > 0) {
    shared_expert.emplace(
        w.sub("shared_expert"),
        args.hidden_size,
        args.shared_expert_intermediate_size);
    shared_expert_gate.emplace(
        w.sub("shared_expert_gate"), args.hidden_size, 1);
  }
}

mx::array
SparseMoeBlock::operator()(const mx::array& x, const RMSNorm& norm) const {
  const auto stacks = experts_of(switch_mlp);
  if (ops::is_fused(stacks)) {
    const auto out = ops::sparse_add(
        x,
        {norm.weight, norm.eps},
        gate(x, norm),
        stacks,
        num_experts_per_tok,
        norm_topk_prob);
    if (!shared_expert) {
      return out;
    }
    const auto share = mx::sigmoid((*shared_expert_gate)(x, norm));
    return mx::add(out, mx::multiply(share, shared_expert->forward(x, norm)));
  }
  const auto n = norm(x);
  const auto [experts, weights] =
      ops::route(gate(n), num_experts_per_tok, norm_topk_prob);
  const auto outputs = switch_mlp(n, experts); // [T, k, hidden_size]
  const auto out = mx::add(x, ops::weighted_sum(outputs, weights));
  if (!shared_expert) {
    return out;
  }
  const auto share = mx::sigmoid((*shared_expert_gate)(n));
  return mx::add(out, mx::multiply(share, shared_expert->forward(n)));
}

} // namespace qwen3_mlx
