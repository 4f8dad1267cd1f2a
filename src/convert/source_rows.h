// SPDX-License-Identifier: MIT
// A tensor or a matrix of the source as rows of float32: what the jobs of a
// conversion read.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "weights/stored_matrix.h"

namespace qwen3_mlx {

class SourceRows {
 public:
  /// A vector, or anything that is not packed; must outlive this. A vector's
  /// elements are rows of one.
  explicit SourceRows(const StoredTensor& tensor);
  /// A matrix of any kind.
  explicit SourceRows(StoredMatrix matrix);

  /// In the file; of a packed matrix its codes.
  const StoredTensor& tensor() const {
    return matrix_ ? matrix_->weight() : *tensor_;
  }
  /// As in the source, in elements.
  const std::vector<std::int64_t>& shape() const {
    return shape_;
  }
  std::uint64_t n_rows() const {
    return n_rows_;
  }
  std::uint64_t n_columns() const {
    return n_columns_;
  }
  std::uint64_t n_elements() const {
    return n_rows_ * n_columns_;
  }
  /// In the file, all parts together.
  std::uint64_t n_bytes() const {
    return n_bytes_;
  }
  /// Rows that are worth one piece of work, at least one.
  std::uint64_t rows_per_chunk() const;

  /// Memory of a thread, reused from piece to piece.
  struct Scratch {
    std::vector<std::byte> source;
    std::vector<float> values;
  };
  /// Rows [first, first + count) into `scratch.values`.
  void read(std::uint64_t first, std::uint64_t count, Scratch& scratch) const;

 private:
  const StoredTensor* tensor_ = nullptr;
  std::optional<StoredMatrix> matrix_; ///< Instead of `tensor_`.
  std::vector<std::int64_t> shape_;
  std::uint64_t n_rows_ = 0;
  std::uint64_t n_columns_ = 0;
  std::uint64_t n_bytes_ = 0;
};

} // namespace qwen3_mlx
