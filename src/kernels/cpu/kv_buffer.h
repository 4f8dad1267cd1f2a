// SPDX-License-Identifier: MIT
// Keys and values of one layer outside MLX's graph. An array that a step writes
// in place would be copied whenever the step before is still running; here the
// order of writes and reads is kept by each attention operation depending on
// the one before it.
#pragma once

#include <cstddef>
#include <memory>

#include "kernels/cpu/types.h"

namespace qwen3_mlx::cpu {

/// Two arrays [batch, n_kv_heads, capacity, head_dim]. Only tasks of attention
/// operations, and a host that has waited for the last of them, touch it.
class KvBuffer {
 public:
  KvBuffer(int batch, int n_kv_heads, int head_dim, Float type)
      : batch_(batch), n_kv_heads_(n_kv_heads), head_dim_(head_dim),
        type_(type) {}

  /// Makes room for `capacity` positions, keeping the first `length`.
  void reserve(int capacity, int length);

  /// Copies the first `length` positions to, or from, two dense arrays
  /// [batch, n_kv_heads, length, head_dim].
  void save(int length, void* keys, void* values) const;
  void load(int length, const void* keys, const void* values);

  int batch() const {
    return batch_;
  }
  int n_kv_heads() const {
    return n_kv_heads_;
  }
  int head_dim() const {
    return head_dim_;
  }
  int capacity() const {
    return capacity_;
  }
  Float type() const {
    return type_;
  }
  std::byte* keys() {
    return keys_.get();
  }
  std::byte* values() {
    return values_.get();
  }

 private:
  std::size_t row_bytes(int length) const {
    return static_cast<std::size_t>(length) *
        static_cast<std::size_t>(head_dim_) * size_of(type_);
  }

  int batch_;
  int n_kv_heads_;
  int head_dim_;
  Float type_;
  int capacity_ = 0;
  std::unique_ptr<std::byte[]> keys_;
  std::unique_ptr<std::byte[]> values_;
};

} // namespace qwen3_mlx::cpu
