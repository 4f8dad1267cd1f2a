// SPDX-License-Identifier: MIT
#include "qwen3_mlx/nn/linear.h"

#include "kernels/ops.h"
#include "mlx/fast.h"
#include "mlx/ops.h"
#include "weights/weights.h"

namespace qwen3_mlx {
namespace {

std::optional<mx::array> take_bias(const Weights& w, int size, bool has_bias) {
  return has_bias ? std::optional(w.vector("bias", size)) : std::nullopt;
}

} // namespace

RMSNorm::RMSNorm(const Weights& w, int size, float epsilon)
    : weight(w.vector("weight", size)), eps(epsilon) {}

mx::array RMSNorm::operator()(const mx::array& x) const {
  return mx::fast::rms_norm(x, weight, eps);
}

Linear::Linear(const Weights& w, int in_dim, int out_dim, bool has_bias)
    : Linear(w.matrix(out_dim, in_dim), take_bias(w, out_dim, has_bias)) {}

Linear::Linear(Matrix matrix, std::optional<mx::array> bias)
    : matrix_(std::move(matrix)), bias_(std::move(bias)),
      n_rows_(matrix_.out_dim()) {}

mx::array Linear::operator()(const mx::array& x) const {
  return ops::linear(x, matrix(), bias());
}

mx::array Linear::operator()(const mx::array& x, const RMSNorm& norm) const {
  return ops::norm_linear(x, {norm.weight, norm.eps}, matrix(), bias());
}

mx::array Linear::swiglu(const mx::array& x) const {
  return ops::linear_swiglu(x, matrix(), bias());
}

mx::array Linear::swiglu(const mx::array& x, const RMSNorm& norm) const {
  return ops::norm_linear_swiglu(x, {norm.weight, norm.eps}, matrix(), bias());
}

mx::array Linear::add_to(const mx::array& residual, const mx::array& x) const {
  return ops::linear_add(residual, x, matrix(), bias());
}

Linear Linear::rows(int begin, int n) const {
  Linear part = *this;
  part.first_row_ += begin;
  part.n_rows_ = n;
  return part;
}

Matrix Linear::matrix() const {
  return n_rows_ == matrix_.out_dim() ? matrix_
                                      : ops::rows(matrix_, first_row_, n_rows_);
}

std::optional<mx::array> Linear::bias() const {
  if (!bias_ || n_rows_ == matrix_.out_dim()) {
    return bias_;
  }
  return mx::slice(*bias_, {first_row_}, {first_row_ + n_rows_});
}

MergedLinear::MergedLinear(
    const Weights& w,
    int in_dim,
    std::initializer_list<Projection> projections,
    bool has_bias) {
  std::vector<std::string_view> names;
  std::vector<int> out_dims;
  for (const auto& projection : projections) {
    names.push_back(projection.name);
    out_dims.push_back(projection.out_dim);
  }
  auto merged = w.merged(names, out_dims, in_dim);
  if (!merged) {
    for (const auto& [name, out_dim] : projections) {
      parts_.emplace_back(w.sub(name), in_dim, out_dim, has_bias);
    }
    return;
  }
  std::optional<mx::array> biases;
  if (has_bias) {
    biases = w.merged_vector(names, "bias", out_dims);
  }
  whole_.emplace(std::move(*merged), biases);
  int begin = 0;
  for (const int out_dim : out_dims) {
    parts_.push_back(whole_->rows(begin, out_dim));
    begin += out_dim;
  }
}

mx::array
MergedLinear::operator()(const mx::array& x, const RMSNorm& norm) const {
  return whole_ ? (*whole_)(x, norm) : (*this)(norm(x));
}

mx::array MergedLinear::operator()(const mx::array& x) const {
  if (whole_) {
    return (*whole_)(x);
  }
  std::vector<mx::array> outputs;
  outputs.reserve(parts_.size());
  for (const auto& part : parts_) {
    outputs.push_back(part(x));
  }
  return mx::concatenate(std::move(outputs), -1);
}

mx::array MergedLinear::swiglu(const mx::array& x) const {
  return whole_ ? whole_->swiglu(x) : ops::swiglu((*this)(x));
}

mx::array MergedLinear::swiglu(const mx::array& x, const RMSNorm& norm) const {
  return whole_ ? whole_->swiglu(x, norm) : swiglu(norm(x));
}

Embedding::Embedding(const Weights& w, int vocab_size, int hidden_size)
    : matrix_(w.matrix(vocab_size, hidden_size)), dtype_(w.dtype()) {}

mx::array Embedding::operator()(const mx::array& tokens) const {
  return ops::embedding(tokens, matrix_, dtype_);
}

mx::array Embedding::as_linear(const mx::array& x) const {
  return ops::linear(x, matrix_);
}

} // namespace qwen3_mlx
