// SPDX-License-Identifier: MIT
// Linear, Embedding and RMSNorm: the layers that hold weights, plain or
// quantized as the checkpoint has them.
#pragma once

#include <initializer_list>
#include <optional>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "mlx/array.h"
#include "qwen3_mlx/matrix.h"

namespace qwen3_mlx {
namespace mx = mlx::core;

class Weights;

/// x / sqrt(mean(x^2) + eps) * weight over the last dimension
/// (arXiv 1910.07467).
struct RMSNorm {
  RMSNorm(const Weights& w, int size, float eps);

  mx::array operator()(const mx::array& x) const;

  mx::array weight; ///< [size]
  float eps;
};

/// x W^T + bias. It may be a handle onto rows of a matrix that it shares with
/// others (merged projections), and is usable alone all the same.
class Linear {
 public:
  Linear(const Weights& w, int in_dim, int out_dim, bool has_bias = false);
  Linear(Matrix matrix, std::optional<mx::array> bias);

  /// x [..., in] -> [..., out]
  mx::array operator()(const mx::array& x) const;
  /// The same of norm(x).
  mx::array operator()(const mx::array& x, const RMSNorm& norm) const;
  /// silu(first half) * second half of the outputs for x, or for norm(x).
  mx::array swiglu(const mx::array& x) const;
  mx::array swiglu(const mx::array& x, const RMSNorm& norm) const;
  /// residual + x W^T + bias
  mx::array add_to(const mx::array& residual, const mx::array& x) const;

  /// Outputs [begin, begin + n) as a Linear of their own, sharing the memory.
  Linear rows(int begin, int n) const;

  /// [out, in]; a view when this is a handle onto rows.
  Matrix matrix() const;
  /// [out]
  std::optional<mx::array> bias() const;
  /// Set when the matrix is in the layout of the CPU kernels.
  const std::shared_ptr<const cuda::Blocks>& blocks() const {
    return matrix_.blocks;
  }
  const std::shared_ptr<const cpu::Tiles>& tiles() const {
    return matrix_.tiles;
  }
  int in_dim() const {
    return matrix_.in_dim();
  }
  int out_dim() const {
    return n_rows_;
  }

 private:
  Matrix matrix_;
  std::optional<mx::array> bias_;
  int first_row_ = 0;
  int n_rows_;
};

/// One child of a MergedLinear: a projection and the size of its output.
struct Projection {
  std::string_view name;
  int out_dim;
};

/// Several projections of one input as one matrix, their rows after each
/// other; where the checkpoint packs them differently they stay apart, with
/// the same result.
class MergedLinear {
 public:
  MergedLinear(
      const Weights& w,
      int in_dim,
      std::initializer_list<Projection> projections,
      bool has_bias = false);
  /// Of projections that stay apart.
  explicit MergedLinear(std::vector<Linear> parts) : parts_(std::move(parts)) {}

  /// x [..., in] -> [..., sum of out]
  mx::array operator()(const mx::array& x) const;
  /// The same of norm(x).
  mx::array operator()(const mx::array& x, const RMSNorm& norm) const;

  /// silu(first projection) * second projection, of x or of norm(x).
  mx::array swiglu(const mx::array& x) const;
  mx::array swiglu(const mx::array& x, const RMSNorm& norm) const;

  /// The projection of that index, in the order of construction.
  const Linear& operator[](std::size_t idx) const {
    return parts_[idx];
  }
  bool is_merged() const {
    return whole_.has_value();
  }

 private:
  std::vector<Linear> parts_;
  std::optional<Linear> whole_;
};

/// A table of token embeddings [vocab_size, hidden_size].
class Embedding {
 public:
  Embedding(const Weights& w, int vocab_size, int hidden_size);

  /// tokens [...] -> [..., hidden_size] in the compute dtype.
  mx::array operator()(const mx::array& tokens) const;
  /// The table as output head: x [..., hidden_size] -> [..., vocab_size].
  mx::array as_linear(const mx::array& x) const;

  const Matrix& matrix() const {
    return matrix_;
  }

 private:
  Matrix matrix_;
  mx::Dtype dtype_;
};

} // namespace qwen3_mlx
