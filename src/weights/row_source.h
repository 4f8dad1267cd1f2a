// SPDX-License-Identifier: MIT
// A matrix that another program packed, as rows of numbers.
#pragma once

#include <cstdint>

namespace qwen3_mlx {

class RowSource {
 public:
  virtual ~RowSource() = default;

  /// Writes rows [first, first + count), after each other, as float32. Safe
  /// from several threads. Throws FileError and TensorError.
  virtual void
  read_rows(std::uint64_t first, std::uint64_t count, float* out) const = 0;
};

} // namespace qwen3_mlx
