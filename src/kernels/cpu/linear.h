// SPDX-License-Identifier: MIT
// Products of activations with packed matrices, with what is fused to them.
#pragma once

#include <optional>

#include "kernels/cpu/context.h"

namespace qwen3_mlx::cpu {

/// What a product adds to x W^T.
struct LinearOptions {
  std::optional<RmsNorm> norm;  ///< Of x, before the product.
  std::optional<Vector> bias;   ///< [rows of W]
  std::optional<Rows> residual; ///< [num_rows, outputs]
  bool gated = false;           ///< silu(first half of outputs) * second half.
};

/// x [num_rows, cols] -> out [num_rows, rows], or [num_rows, rows / 2] if
/// gated.
void linear(
    const Context& context,
    const Rows& x,
    int num_rows,
    const PackedView& w,
    const LinearOptions& options,
    const MutableRows& out);

/// Stacks of experts, one packed matrix after another.
struct ExpertsView {
  PackedView gate_up;           ///< Of one expert: gate rows, then up rows.
  std::optional<PackedView> up; ///< Present: gate_up holds the gate alone.
  PackedView down;
  int num_experts = 0;
};

/// Token t through expert experts[t * top_k + slot]: x [num_tokens, hidden]
/// -> out row t * top_k + slot [hidden]; x is normalized first if asked.
/// Experts out of range count as the last one. Tokens are grouped by expert,
/// whose tiles threads share.
void experts_mlp(
    const Context& context,
    const Rows& x,
    int num_tokens,
    int top_k,
    const std::uint32_t* experts,
    const ExpertsView& w,
    const MutableRows& out,
    const std::optional<RmsNorm>& norm = {});

struct RouteOptions {
  int num_experts = 0;
  int top_k = 0;
  bool normalize = false; ///< Weights of a token sum to one.
};

/// The top_k experts of each token by the softmax of its router logits
/// [num_tokens, num_experts], most probable first, the first among equals:
/// experts and weights [num_tokens, top_k].
void route(
    const Context& context,
    const Rows& logits,
    int num_tokens,
    const RouteOptions& options,
    std::uint32_t* experts,
    float* weights);

/// out[t] = sum over slots of weights[t * top_k + slot] * y[t * top_k + slot]
/// (+ addend[t]), in the order of the slots.
void combine_experts(
    const Context& context,
    const Rows& y,
    const float* weights,
    int num_tokens,
    int top_k,
    int size,
    const std::optional<Rows>& addend,
    const MutableRows& out);

/// Rows of the table: tokens [num_tokens] -> out [num_tokens, cols].
void embedding(
    const Context& context,
    const std::uint32_t* tokens,
    int num_tokens,
    const PackedView& w,
    const MutableRows& out);

} // namespace qwen3_mlx::cpu
