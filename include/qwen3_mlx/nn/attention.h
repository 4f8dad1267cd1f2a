// SPDX-License-Identifier: MIT
// Grouped-query self-attention over a cache.
#pragma once

#include <optional>
#include <span>
#include <vector>

#include "mlx/array.h"
#include "qwen3_mlx/model_args.h"
#include "qwen3_mlx/nn/linear.h"
#include "qwen3_mlx/nn/rope.h"
#include "qwen3_mlx/step_input.h"

namespace qwen3_mlx {
namespace mx = mlx::core;

/// One layer's view of a step.
struct LayerStep {
  std::span<const Segment> segments;
  int layer_idx;
  /// Rows of the layer's outputs that are wanted, ascending; null for all. A
  /// block may compute these alone.
  const std::vector<int>* rows = nullptr;
};

/// What differs between the layers of architectures.
struct BlockForm {
  bool qkv_bias = false;
  bool output_bias = false;
  bool qk_norm = false; ///< RMSNorm per head on queries and keys, before RoPE.
  bool mlp_bias = false;
};

/// residual + o_proj(attention(q_proj(n), k_proj(n), v_proj(n))) with
/// n = norm(residual).
struct Attention {
  Attention(
      const ModelArgs& args,
      const BlockForm& form,
      const Weights& w,
      int layer_idx);

  /// x [T, hidden_size], the rows of step.segments after each other.
  mx::array operator()(
      const mx::array& x,
      const RMSNorm& norm,
      const LayerStep& step) const;

  /// What o_proj takes: the outputs of all heads,
  /// [T, n_heads * head_dim].
  mx::array
  heads(const mx::array& x, const RMSNorm& norm, const LayerStep& step) const;

  int n_heads;
  int n_kv_heads;
  int head_dim;
  float scale;
  std::optional<int> sliding_window;
  MergedLinear qkv_proj;
  Linear q_proj; ///< Rows of qkv_proj, as are k_proj and v_proj.
  Linear k_proj;
  Linear v_proj;
  Linear o_proj;
  std::optional<RMSNorm> q_norm;
  std::optional<RMSNorm> k_norm;
  Rope rope;

 private:
  // qkv [T, (n_heads + 2 * n_kv_heads) * head_dim] -> [T, n_heads * head_dim]
  mx::array attend(const mx::array& qkv, const LayerStep& step) const;
  mx::array attend_segment(
      const mx::array& qkv,
      const Segment& segment,
      int layer_idx) const;

  // The same by one CPU kernel of this project, where there is one for the
  // caches and the weights.
  std::optional<mx::array>
  attend_natively(const mx::array& qkv, const LayerStep& step) const;

  // The same by CUDA kernels that write to the caches in place.
  std::optional<mx::array>
  attend_on_cuda(const mx::array& qkv, const LayerStep& step) const;

  // The weights of q_norm and k_norm once for each head,
  // [1, 1, n_heads + n_kv_heads, head_dim]: queries and keys are then normed by
  // one operation.
  std::optional<mx::array> qk_norm_weight_;
};

} // namespace qwen3_mlx
