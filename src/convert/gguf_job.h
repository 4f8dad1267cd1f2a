// SPDX-License-Identifier: MIT
// One tensor of a checkpoint on its way into a GGUF file.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "convert/source_rows.h"
#include "convert/staged_directory.h"
#include "formats/gguf_writer.h"

namespace qwen3_mlx {

class GgufJob {
 public:
  /// Floats of `type`, or its blocks. `heads` above 0: rows are put in
  /// llama.cpp's order for that many heads.
  GgufJob(
      std::string name,
      SourceRows source,
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

  const SourceRows& source() const {
    return source_;
  }
  std::uint64_t rows_per_chunk() const;

  struct Scratch {
    SourceRows::Scratch source;
    std::vector<std::byte> out;
  };
  void run(std::uint64_t first, std::uint64_t count, Scratch& scratch) const;

 private:
  void set_heads(std::int64_t heads);
  std::uint64_t row_in_file(std::uint64_t row) const;

  SourceRows source_;
  GgufTensorSpec spec_;
  std::uint64_t head_dim_ = 0; ///< Above 0: rows of a head change places.
  StagedFile* file_ = nullptr;
  std::uint64_t offset_ = 0;
};

} // namespace qwen3_mlx
