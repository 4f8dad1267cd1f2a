// SPDX-License-Identifier: MIT
// The operations of kernels/ops.h as MLX primitives on the CPU. They take tiled
// matrices (kernels/cpu/tiles.h); ops.cpp picks them and checks shapes before.
#pragma once

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

/// values [R, n], float32, float16 or bfloat16 -> [R] uint32: see arg_max of
/// KernelTable.
mx::array arg_max_op(const mx::array& values, mx::Stream stream);

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

} // namespace qwen3_mlx::cpu
