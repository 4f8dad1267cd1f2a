// SPDX-License-Identifier: MIT
// One tensor of a checkpoint on its way into a GGUF file.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "convert/staged_directory.h"
#include "formats/gguf_writer.h"
#include "weights/stored_matrix.h"

namespace qwen3_mlx {

class GgufJob {
 public:
  /// A vector, or anything that is not packed, as floats of `type`. `heads`
  /// above 0: rows are put in llama.cpp's order for that many heads.
  GgufJob(
      std::string name,
      const StoredTensor& tensor,
      GgmlType type,
      std::int64_t heads = 0);
  /// A matrix of any kind.
  GgufJob(
      std::string name,
      StoredMatrix matrix,
      GgmlType type,
      std::int64_t heads = 0);

  const GgufTensorSpec& spec() const {
    return spec_;
  }
  /// A matrix of one row becomes a vector.
  void flatten() {
    spec_.shape.erase(spec_.shape.begin());
  }
  /// Where the tensor begins in the file that is written.
  void place(StagedFile& file, std::uint64_t offset) {
    file_ = &file;
    offset_ = offset;
  }

  std::uint64_t n_rows() const {
    return n_rows_;
  }
  std::uint64_t n_elements() const {
    return n_rows_ * n_columns_;
  }
  /// In the source.
  std::uint64_t n_bytes() const {
    return n_bytes_;
  }
  std::uint64_t rows_per_chunk() const;

  struct Scratch {
    std::vector<std::byte> source;
    std::vector<float> values;
    std::vector<std::byte> out;
  };
  void run(std::uint64_t first, std::uint64_t count, Scratch& scratch) const;

 private:
  void set_heads(std::int64_t heads);
  std::uint64_t row_in_file(std::uint64_t row) const;

  GgufTensorSpec spec_;
  const StoredTensor* tensor_ = nullptr;
  std::optional<StoredMatrix> matrix_;
  std::uint64_t n_rows_ = 0;
  std::uint64_t n_columns_ = 0;
  std::uint64_t n_bytes_ = 0;
  std::uint64_t head_dim_ = 0; ///< Above 0: rows of a head change places.
  StagedFile* file_ = nullptr;
  std::uint64_t offset_ = 0;
};

} // namespace qwen3_mlx
