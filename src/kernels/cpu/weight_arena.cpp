// SPDX-License-Identifier: MIT
#include "kernels/cpu/weight_arena.h"

#include <algorithm>
#include <cstdint>
#include <string>

#include "base/huge_pages.h"
#include "kernels/cpu/kernel_table.h"
#include "kernels/mlx_internals.h"
#include "qwen3_mlx/error.h"

namespace qwen3_mlx::cpu {

namespace {

// Matrices up to this size share a piece.
constexpr std::size_t kPieceBytes = std::size_t{32} << 20;
constexpr std::size_t kCacheLine = 64;

} // namespace

void WeightArena::add_piece(std::size_t n_bytes) {
  // Room to begin on a huge page: what lies before is never touched.
  const std::size_t size = n_bytes + kHugePageBytes;
  auto data = mx::allocator::malloc(size);
  auto* const start = static_cast<std::byte*>(data.buffer().raw_ptr());
  if (start == nullptr) {
    throw Error(
        "cannot allocate " + std::to_string(size) + " bytes for weights");
  }
  advise_huge_pages(start, size);
  // The shape is nominal: arrays are views by their offset.
  piece_.emplace(std::move(data), mx::Shape{1}, mx::uint8);
  const auto address = reinterpret_cast<std::uintptr_t>(start);
  used_ = (kHugePageBytes - address % kHugePageBytes) % kHugePageBytes;
  size_ = size;
}

mx::array WeightArena::allocate(int rows, int cols) {
  const std::size_t n_bytes =
      static_cast<std::size_t>(rows) * static_cast<std::size_t>(cols);
  if (!piece_ || size_ - used_ < n_bytes) {
    add_piece(std::max(n_bytes, kPieceBytes));
  }
  mx::array out({rows, cols}, mx::uint8, nullptr, {});
  out.copy_shared_buffer(
      *piece_,
      {cols, 1},
      {.contiguous = true, .row_contiguous = true, .col_contiguous = false},
      n_bytes,
      static_cast<std::int64_t>(used_));
  out.set_status(mx::array::Status::available);
  used_ = std::min(size_, round_up(used_ + n_bytes, kCacheLine));
  return out;
}

} // namespace qwen3_mlx::cpu
