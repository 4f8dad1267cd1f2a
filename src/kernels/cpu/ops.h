// SPDX-License-Identifier: MIT
// The operations of kernels/ops.h as MLX primitives on the CPU. They take tiled
// matrices (kernels/cpu/tiles.h); ops.cpp picks them and checks shapes before.
#pragma once

#include <memory>
#include <optional>

#include "kernels/cpu/kv_buffer.h"
#include "kernels/cpu/tiles.h"
#include "mlx/array.h"

namespace qwen3_mlx::cpu {

/// What linear_op fuses to the product.
struct FusedLinear {
  const mx::array* norm_weight = nullptr;
  float norm_eps = 0;
  const mx::array* bias = nullptr;
  const mx::array* residual = nullptr;
  bool gated = false; ///< silu(first half of outputs) * second half
};

/// x [..., in] -> [..., out], or [..., out / 2] when gated.
mx::array
linear_op(const mx::array& x, const Matrix& w, const FusedLinear& fused = {});

/// tokens [...] -> [..., in] in `dtype`.
mx::array
embedding_op(const mx::array& tokens, const Matrix& w, mx::Dtype dtype);

/// Tiled stacks of experts; `up` is null where gate_up holds both.
struct TiledExperts {
  const Matrix& gate_up;
  const Matrix* up;
  const Matrix& down;
};

/// x [T, in], experts [T, k] -> [T, k, in]
mx::array
experts_op(const mx::array& x, const TiledExperts& w, const mx::array& experts);

/// Routing and experts of a layer.
struct SparseLayer {
  const mx::array& norm_weight;
  float norm_eps;
  int top_k;
  bool normalize; ///< Weights of a token's experts sum to one.
  TiledExperts experts;
};

/// residual + sum over the top_k experts of each token by router logits [T, E]
/// of weight * expert(rms_norm(residual)): [T, in] -> [T, in].
mx::array sparse_op(
    const mx::array& residual,
    const mx::array& logits,
    const SparseLayer& layer);

/// What attention does to heads before they meet.
struct AttentionForm {
  int n_heads;
  int n_kv_heads;
  int head_dim;
  float scale;
  std::optional<int> window;
  const mx::array* q_norm = nullptr; ///< [head_dim]
  const mx::array* k_norm = nullptr;
  float norm_eps = 0;
  const mx::array& periods; ///< [rotary_dim / 2]: angle = position / period.
};

/// One segment's attention: what attention_op takes but the cache.
struct AttentionCall {
  const mx::array& qkv;
  const AttentionForm& form;
  int batch;
  int length;
  std::shared_ptr<Runtime> runtime;
};

/// Whether attention_op takes heads of that size.
bool supports_head_dim(int head_dim);

/// qkv [B * L, (n_heads + 2 * n_kv_heads) * head_dim], rows of B sequences of
/// one length at position `offset` -> [B * L, n_heads * head_dim]. Appends to
/// `buffer`, before which `previous` stands: the output of the call that wrote
/// to it last. `capacity`: positions the buffer must hold afterwards.
mx::array attention_op(
    const AttentionCall& call,
    const std::shared_ptr<KvBuffer>& buffer,
    int offset,
    int capacity,
    const std::optional<mx::array>& previous);

} // namespace qwen3_mlx::cpu
