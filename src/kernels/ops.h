// SPDX-License-Identifier: MIT
// The few fused operations a decoder layer is made of. Each is defined here by
// a composition of plain MLX operations, which is the documentation, the
// oracle and the path on Metal; where a backend has a kernel of its own for the
// operands at hand, the operation picks it.
//
// T is the number of tokens of a step, all sequences after each other.
#pragma once

#include <optional>

#include "mlx/array.h"
#include "mlx/utils.h"
#include "qwen3_mlx/matrix.h"

namespace qwen3_mlx::ops {

using Bias = std::optional<mx::array>;

/// The weight [size] and epsilon of an RMSNorm.
struct Norm {
  const mx::array& weight;
  float eps;
};

/// x [..., in] -> x W^T + bias [..., out]
mx::array linear(const mx::array& x, const Matrix& w, const Bias& bias = {});

/// linear(rms_norm(x)), x [T, in] -> [T, out]
mx::array norm_linear(
    const mx::array& x,
    const Norm& norm,
    const Matrix& w,
    const Bias& bias = {});

/// swiglu(linear(x)): x [..., in] -> [..., out / 2]
mx::array
linear_swiglu(const mx::array& x, const Matrix& w, const Bias& bias = {});

/// swiglu(norm_linear(x)): x [T, in] -> [T, out / 2]
mx::array norm_linear_swiglu(
    const mx::array& x,
    const Norm& norm,
    const Matrix& w,
    const Bias& bias = {});

/// residual [T, out] + x W^T + bias
mx::array linear_add(
    const mx::array& residual,
    const mx::array& x,
    const Matrix& w,
    const Bias& bias = {});

/// silu(gate) * up of gate_up [..., 2 * n], gate in the first half of the last
/// dimension -> [..., n]
mx::array swiglu(const mx::array& gate_up);

/// Index of the largest element of each row of values [R, n], the first among
/// equals -> [R] uint32
mx::array arg_max(const mx::array& values, mx::StreamOrDevice s = {});

/// Rows of a table: tokens [...] -> [..., in] in `dtype`.
mx::array embedding(const mx::array& tokens, const Matrix& w, mx::Dtype dtype);

/// Rows [begin, begin + n) of w [..., out, in], sharing its memory.
Matrix rows(const Matrix& w, int begin, int n);

/// Which experts a token goes to, and with what weight.
struct Routing {
  mx::array experts; ///< [T, k] uint32, in no order.
  mx::array weights; ///< [T, k] float32
};

/// The k most probable experts of each token by router logits [T, E], with
/// their softmax over all experts, divided by its sum over the k if
/// `normalize`.
Routing route(const mx::array& logits, int k, bool normalize);

/// Experts as they are used together: gate and up merged in `gate_up`, or
/// apart when `up` is present and `gate_up` then holds the gate alone.
struct Experts {
  const Matrix& gate_up;
  const Matrix* up;
  const Matrix& down;
};

/// Whether the experts are in the layout of this project's CPU kernels: then
/// sparse_add() is one operation.
bool is_tiled(const Experts& w);
/// Whether sparse_add() is one operation, there or on an NVIDIA GPU.
bool is_fused(const Experts& w);

/// Each token through each of its experts: x [T, in], experts [T, k]
/// -> [T, k, in]
mx::array
experts_mlp(const mx::array& x, const Experts& w, const mx::array& experts);

/// The experts' outputs [T, k, out] mixed by weights [T, k] -> [T, out].
mx::array weighted_sum(const mx::array& outputs, const mx::array& weights);

/// residual [T, in] + the sum over the k experts that `logits` [T, E] route
/// each token of n = rms_norm(residual) to, of weight * expert(n).
mx::array sparse_add(
    const mx::array& residual,
    const Norm& norm,
    const mx::array& logits,
    const Experts& w,
    int k,
    bool normalize);

} // namespace qwen3_mlx::ops
