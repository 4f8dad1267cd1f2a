// SPDX-License-Identifier: MIT
// A matrix of a checkpoint, however it is stored, as rows of float32.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "qwen3_mlx/quantization.h"
#include "weights/checkpoint.h"
#include "weights/stored_rows.h"

namespace qwen3_mlx {

/// The tensors of one module's weight, checked against each other. Points into
/// the checkpoint, which must outlive it. Reading is safe from several threads.
class StoredMatrix {
 public:
  /// Of `module` ("model.layers.0.mlp.up_proj"), whose ".weight" the checkpoint
  /// must hold with two dimensions or more. Throws TensorError for what cannot
  /// be read, and for parts that do not fit each other.
  StoredMatrix(
      const Checkpoint& checkpoint,
      const std::optional<QuantizationConfig>& quantization,
      const std::string& module);

  /// [.., out, in] in elements, whatever the packing.
  const std::vector<std::int64_t>& shape() const {
    return shape_;
  }
  /// All dimensions but the last, multiplied.
  std::uint64_t n_rows() const {
    return n_rows_;
  }
  std::uint64_t n_columns() const {
    return static_cast<std::uint64_t>(shape_.back());
  }
  /// As MLX packs it in the file; not quantized for plain tensors and GGUF's.
  const QuantFormat& format() const {
    return format_;
  }
  const StoredTensor& weight() const {
    return *weight_;
  }
  /// Bytes of rows in the file, all parts together.
  std::uint64_t n_bytes() const;

  /// The values of rows [first, first + count), rows after each other, exact:
  /// scale * q + bias is computed in float32. `scratch` is reused memory.
  void read_rows(
      std::uint64_t first,
      std::uint64_t count,
      float* out,
      std::vector<std::byte>& scratch) const;

 private:
  void check_parts(const Checkpoint& checkpoint, const std::string& module);
  void unpack_rows(
      std::uint64_t first,
      std::uint64_t count,
      float* out,
      std::vector<std::byte>& scratch) const;

  const StoredTensor* weight_ = nullptr;
  const StoredTensor* scales_ = nullptr;
  const StoredTensor* biases_ = nullptr;
  QuantFormat format_;
  std::vector<std::int64_t> shape_;
  std::uint64_t n_rows_ = 0;
};

} // namespace qwen3_mlx
