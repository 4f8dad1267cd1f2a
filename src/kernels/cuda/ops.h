// SPDX-License-Identifier: MIT
// The operations of ops.h on an NVIDIA GPU, one MLX primitive each.
#pragma once

#include <optional>
#include <vector>

#include "kernels/cuda/runtime.h"
#include "mlx/array.h"
#include "qwen3_mlx/matrix.h"
#include "qwen3_mlx/most_likely.h"

namespace qwen3_mlx::cuda {

/// What linear_op() does besides the product.
struct FusedLinear {
  const mx::array* norm_weight = nullptr;
  float norm_eps = 0;
  const mx::array* bias = nullptr;
  const mx::array* residual = nullptr;
  bool gated = false;
};

/// Whether linear_op() takes x, and is what to take for that many rows.
bool takes_rows(const mx::array& x, const Matrix& w, bool gated = false);

/// x [..., in] of few rows.
mx::array
linear_op(const mx::array& x, const Matrix& w, const FusedLinear& fused);

mx::array
embedding_op(const mx::array& tokens, const Matrix& w, mx::Dtype dtype);

/// The matrix or stack [..., out, in] as plain elements, for products of many
/// rows. Made anew each time: not kept.
Matrix unpacked(const Matrix& w, mx::Dtype dtype);

/// Rows [begin, begin + n): blocks that share the memory where `begin` is a
/// multiple of 8, else plain elements.
Matrix packed_rows(const Matrix& w, int begin, int n);

/// The stacks of a sparse layer; `up` is merged into `gate_up`.
struct PackedExperts {
  const Matrix& gate_up;
  const Matrix& down;
};

struct SparseForm {
  const mx::array& norm_weight;
  float norm_eps;
  int top_k;
  bool normalize;
};

/// residual [T, in] + the mix of the experts that logits [T, E] route
/// rms_norm(residual) to.
mx::array sparse_op(
    const mx::array& residual,
    const mx::array& logits,
    const PackedExperts& w,
    const SparseForm& form);

/// Whether sparse_op() takes such stacks.
bool takes_experts(const Matrix& gate_up, const Matrix* up, const Matrix& down);

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
  /// The caches hold codes of so many bits; 0: elements.
  int kv_bits = 0;
  int kv_group = 0; ///< That share a scale and a bias.
};

/// `length` new positions of each of `batch` sequences of one cache: keys and
/// values [batch, n_kv_heads, capacity, head_dim], written in place from
/// `offset` on.
struct CacheSegment {
  mx::array keys;
  mx::array values;
  int batch;
  int length;
  int offset;
  /// The operation that wrote to them last, unless that has run.
  std::optional<mx::array> after;
  /// Of codes [..., head_dim * bits / 32]: scales of keys, their biases, and
  /// both of values [..., head_dim / group].
  std::vector<mx::array> scales;
};

/// Whether attention_op() takes that: one new position of each sequence, or
/// `many`.
bool takes_attention(
    const mx::array& qkv,
    const AttentionForm& form,
    bool many,
    const Runtime& runtime);

/// qkv [T, (n_heads + 2 * n_kv_heads) * head_dim], neither normed nor rotated;
/// the rows of a segment are [batch, length] -> [T, n_heads * head_dim].
mx::array attention_op(
    const mx::array& qkv,
    const AttentionForm& form,
    const mx::array& periods,
    const std::vector<CacheSegment>& segments,
    const std::shared_ptr<Runtime>& runtime);

/// logits [n, vocab_size]; nothing when the kernel does not take them.
std::optional<MostLikely> most_likely_op(
    const mx::array& logits,
    const std::shared_ptr<Runtime>& runtime);

/// An evaluated array in the GPU's memory whose elements may be anything.
mx::array
fresh_array(const Runtime& runtime, const mx::Shape& shape, mx::Dtype dtype);

} // namespace qwen3_mlx::cuda
