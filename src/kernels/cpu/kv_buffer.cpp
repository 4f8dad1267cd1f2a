// SPDX-License-Identifier: MIT
#include "kernels/cpu/kv_buffer.h"

#include <cstring>

namespace qwen3_mlx::cpu {

namespace {

// Row `row` of each array is one head of one sequence.
void copy_rows(
    const std::byte* from,
    std::size_t from_stride,
    std::byte* to,
    std::size_t to_stride,
    std::size_t n_bytes,
    std::size_t num_rows) {
  if (n_bytes == 0) {
    return;
  }
  for (std::size_t row = 0; row < num_rows; ++row) {
    std::memcpy(to + row * to_stride, from + row * from_stride, n_bytes);
  }
}

} // namespace

void KvBuffer::reserve(int capacity, int length) {
  if (capacity <= capacity_) {
    return;
  }
  const auto num_rows =
      static_cast<std::size_t>(batch_) * static_cast<std::size_t>(n_kv_heads_);
  const auto grown = [&](const std::unique_ptr<std::byte[]>& old) {
    std::unique_ptr<std::byte[]> fresh(
        new std::byte[num_rows * row_bytes(capacity)]);
    copy_rows(
        old.get(),
        row_bytes(capacity_),
        fresh.get(),
        row_bytes(capacity),
        row_bytes(length),
        num_rows);
    return fresh;
  };
  keys_ = grown(keys_);
  values_ = grown(values_);
  capacity_ = capacity;
}

void KvBuffer::save(int length, void* keys, void* values) const {
  const auto num_rows =
      static_cast<std::size_t>(batch_) * static_cast<std::size_t>(n_kv_heads_);
  const std::size_t n_bytes = row_bytes(length);
  const std::size_t stride = row_bytes(capacity_);
  copy_rows(
      keys_.get(),
      stride,
      static_cast<std::byte*>(keys),
      n_bytes,
      n_bytes,
      num_rows);
  copy_rows(
      values_.get(),
      stride,
      static_cast<std::byte*>(values),
      n_bytes,
      n_bytes,
      num_rows);
}

void KvBuffer::load(int length, const void* keys, const void* values) {
  reserve(length, 0);
  const auto num_rows =
      static_cast<std::size_t>(batch_) * static_cast<std::size_t>(n_kv_heads_);
  const std::size_t n_bytes = row_bytes(length);
  const std::size_t stride = row_bytes(capacity_);
  copy_rows(
      static_cast<const std::byte*>(keys),
      n_bytes,
      keys_.get(),
      stride,
      n_bytes,
      num_rows);
  copy_rows(
      static_cast<const std::byte*>(values),
      n_bytes,
      values_.get(),
      stride,
      n_bytes,
      num_rows);
}

} // namespace qwen3_mlx::cpu
