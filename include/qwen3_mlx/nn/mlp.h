// SPDX-License-Identifier: MIT
// Feed-forward networks: dense SwiGLU, and a mixture of such experts.
#pragma once

#include <optional>

#include "mlx/array.h"
#include "qwen3_mlx/model_args.h"
#include "qwen3_mlx/nn/linear.h"

namespace qwen3_mlx {
namespace mx = mlx::core;

/// residual + down_proj(silu(gate_proj(n)) * up_proj(n)) with
/// n = norm(residual) (arXiv 2002.05202).
struct Mlp {
  Mlp(const Weights& w,
      int hidden_size,
      int intermediate_size,
      bool has_bias = false);

  /// x [T, hidden_size]
  mx::array operator()(const mx::array& x, const RMSNorm& norm) const;
  /// The network alone, without norm and residual.
  mx::array forward(const mx::array& x) const;
  /// The same of norm(x).
  mx::array forward(const mx::array& x, const RMSNorm& norm) const;

  MergedLinear gate_up_proj;
  Linear gate_proj; ///< Rows of gate_up_proj, as is up_proj.
  Linear up_proj;
  Linear down_proj;
};

/// SwiGLU experts stacked in one matrix a projection.
struct SwitchMlp {
  SwitchMlp(
      const Weights& w,
      int num_experts,
      int hidden_size,
      int intermediate_size);

  /// x [T, hidden_size], experts [T, k] uint32 -> [T, k, hidden_size]
  mx::array operator()(const mx::array& x, const mx::array& experts) const;

  std::optional<Matrix> gate_up_proj; ///< [E, 2 * intermediate, hidden]
  std::optional<Matrix> gate_proj;    ///< [E, intermediate, hidden], unless
  std::optional<Matrix> up_proj;      ///< merged above.
  Matrix down_proj;                   ///< [E, hidden, intermediate]
};

/// residual + sum over the top-k experts of probability * expert(n), plus an
/// expert that sees every token where the model has one (Qwen2-MoE).
struct SparseMoeBlock {
  SparseMoeBlock(const ModelArgs& args, const Weights& w);

  /// x [T, hidden_size]
  mx::array operator()(const mx::array& x, const RMSNorm& norm) const;

  int num_experts;
  int num_experts_per_tok;
  bool norm_topk_prob;
  Linear gate; ///< The router.
  SwitchMlp switch_mlp;
  std::optional<Mlp> shared_expert;
  std::optional<Linear> shared_expert_gate;
};

} // namespace qwen3_mlx
