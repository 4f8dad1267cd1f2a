// SPDX-License-Identifier: MIT
#include "convert/source_rows.h"

#include <algorithm>
#include <utility>

namespace qwen3_mlx {
namespace {

// Elements of a piece of work: 4 MiB as float32, so that reads and writes are
// large and the memory of a thread is small.
constexpr std::uint64_t chunk_elements = std::uint64_t{1} << 18;

} // namespace

SourceRows::SourceRows(const StoredTensor& tensor)
    : tensor_(&tensor), shape_(tensor.shape), n_rows_(1),
      n_bytes_(tensor.n_bytes()) {
  const bool is_matrix = shape_.size() > 1;
  n_columns_ = is_matrix ? static_cast<std::uint64_t>(shape_.back()) : 1;
  for (std::size_t idx = 0; idx + (is_matrix ? 1 : 0) < shape_.size(); ++idx) {
    n_rows_ *= static_cast<std::uint64_t>(shape_[idx]);
  }
}

SourceRows::SourceRows(StoredMatrix matrix)
    : matrix_(std::move(matrix)), shape_(matrix_->shape()),
      n_rows_(matrix_->n_rows()), n_columns_(matrix_->n_columns()),
      n_bytes_(matrix_->n_bytes()) {}

std::uint64_t SourceRows::rows_per_chunk() const {
  return std::max<std::uint64_t>(
      1, chunk_elements / std::max<std::uint64_t>(1, n_columns_));
}

void SourceRows::read(
    std::uint64_t first,
    std::uint64_t count,
    Scratch& scratch) const {
  scratch.values.resize(static_cast<std::size_t>(count * n_columns_));
  if (matrix_) {
    matrix_->read_rows(first, count, scratch.values.data(), scratch.source);
    return;
  }
  scratch.source.resize(static_cast<std::size_t>(n_bytes_ / n_rows_ * count));
  read_stored_rows(*tensor_, n_rows_, first, count, scratch.source.data());
  widen(
      *tensor_,
      scratch.source.data(),
      scratch.values.size(),
      scratch.values.data());
}

} // namespace qwen3_mlx
