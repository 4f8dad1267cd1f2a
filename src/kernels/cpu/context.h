// SPDX-License-Identifier: MIT
// What every CPU operation is given: threads, an instruction set, exactness;
// and views of its operands.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>

#include "base/thread_pool.h"
#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/scratch.h"

namespace qwen3_mlx::cpu {

struct Context {
  ThreadPool& pool;
  const KernelTable& kernels;
  /// Activations stay in float32; otherwise quantized weights meet them in
  /// int8.
  bool exact = false;
  /// For what an operation computes between its steps, or null.
  ScratchPool* scratch = nullptr;
};

/// Rows of elements, `stride` elements from one to the next.
struct Rows {
  const void* data = nullptr;
  Float type = Float::f32;
  std::size_t stride = 0;

  const void* row(std::size_t idx) const {
    return static_cast<const std::byte*>(data) + idx * stride * size_of(type);
  }
};
struct MutableRows {
  void* data = nullptr;
  Float type = Float::f32;
  std::size_t stride = 0;

  void* row(std::size_t idx) const {
    return static_cast<std::byte*>(data) + idx * stride * size_of(type);
  }
};

/// A vector of elements.
struct Vector {
  const void* data = nullptr;
  Float type = Float::f32;
};

struct RmsNorm {
  Vector weight;
  float eps = 0;
};

/// A packed matrix in memory that outlives the call.
struct PackedView {
  PackedLayout layout;
  const std::byte* data = nullptr;
};

/// Uninitialized memory for `count` elements.
template <class T>
std::unique_ptr<T[]> make_scratch(std::size_t count) {
  return std::unique_ptr<T[]>(new T[count]);
}

} // namespace qwen3_mlx::cpu
