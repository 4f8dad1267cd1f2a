// SPDX-License-Identifier: MIT
// The copies that fill one matrix, cut into the slots of uploads.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "kernels/cuda/uploads.h"
#include "weights/row_copy.h"

namespace qwen3_mlx {

/// Slots of that size keep reads large and start early.
inline constexpr std::size_t upload_slot_bytes = std::size_t{8} << 20;

class UploadPlan {
 public:
  /// `source` has reserved arrays; both must outlive the stages.
  UploadPlan(const Matrix& source, const Matrix& packed);

  /// Takes a copy whose targets are rows of the source; else false.
  bool take(RowCopy& copy);

  /// What a slot must hold at least.
  std::size_t least_slot_bytes() const;

  /// Adds stages, each of which fills the slot of its number and starts its
  /// upload.
  void add_stages(
      cuda::Uploads& uploads,
      std::size_t slot_bytes,
      std::vector<CopyStage>& stages) const;

 private:
  /// An array of the source.
  struct Part {
    const std::byte* data = nullptr;
    std::size_t row_bytes = 0;
    std::size_t n_bytes = 0;
  };
  /// A copy, and the row of the source that its first one goes to.
  struct Placed {
    RowCopy copy;
    std::uint64_t row;
  };

  /// The array that holds an address.
  std::optional<std::size_t> part_at(const std::byte* data) const;
  /// Where each array's rows begin in a slot of so many rows; then their end.
  std::array<std::size_t, 4> places(std::uint64_t n_rows) const;

  const Matrix* source_;
  const Matrix* packed_;
  std::uint64_t n_rows_ = 0;
  /// A slot's rows are a multiple of it.
  std::uint64_t step_ = cuda::kUploadRows;
  std::array<Part, 3> parts_;
  std::vector<Placed> copies_;
};

} // namespace qwen3_mlx
