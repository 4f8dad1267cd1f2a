// SPDX-License-Identifier: MIT
// From MLX arrays to what the kernels take.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "kernels/cpu/context.h"
#include "mlx/array.h"
#include "mlx/dtype.h"

namespace qwen3_mlx::cpu {
namespace mx = mlx::core;

/// Nothing for a dtype that is no float the kernels read.
inline std::optional<Float> float_type(mx::Dtype dtype) {
  return dtype == mx::float32 ? std::optional(Float::f32)
      : dtype == mx::float16  ? std::optional(Float::f16)
      : dtype == mx::bfloat16 ? std::optional(Float::bf16)
                              : std::nullopt;
}

inline mx::Dtype dtype_of(Float type) {
  return type == Float::f32 ? mx::float32
      : type == Float::f16  ? mx::float16
                            : mx::bfloat16;
}

/// An array seen as rows of its last dimension. Made when a primitive is
/// evaluated, read when its task runs: the contents come in between.
class RowsOf {
 public:
  explicit RowsOf(const mx::array& x);

  /// The rows, copied together first if they lie scattered.
  Rows get();
  int count() const {
    return count_;
  }

 private:
  const std::byte* data_;
  Float type_;
  int count_;
  std::size_t cols_;
  std::size_t stride_ = 0; // 0: scattered
  mx::Shape shape_;
  mx::Strides strides_;
  std::shared_ptr<std::byte[]> copy_;
};

/// A vector whose elements lie side by side.
inline Vector vector_of(const mx::array& x) {
  return {x.data<std::byte>(), float_type(x.dtype()).value()};
}

} // namespace qwen3_mlx::cpu
