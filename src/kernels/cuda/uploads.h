// SPDX-License-Identifier: MIT
// Matrices on their way into the GPU's memory: rows are written into slots of
// pinned memory, copied from there, and put into blocks on the GPU, all while
// other slots are written.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "kernels/cuda/runtime.h"

namespace qwen3_mlx::cuda {

/// An array of that shape without memory: its elements have addresses, at which
/// nothing may be read or written. It says what an upload is to bring.
mx::array reserved_array(const mx::Shape& shape, mx::Dtype dtype);

/// Rows of a matrix that lie in a slot.
struct UploadedRows {
  const Matrix* source; ///< Of that form; its elements are not read.
  const Matrix* packed; ///< make_blocks() of it.
  /// Of all matrices of a stack as one. `first` is a multiple of kUploadRows.
  std::uint64_t first;
  std::uint64_t count;
  /// Where rows of the weight, the scales and the biases begin in the slot:
  /// multiples of 4.
  std::array<std::size_t, 3> begin;
  std::size_t n_bytes; ///< Of the slot that are written.
};

/// Rows are uploaded in multiples of so many, but for the last.
inline constexpr std::uint64_t kUploadRows = kBlockRows;

class Uploads {
 public:
  static constexpr int kNumSlots = 8;

  Uploads(std::shared_ptr<Runtime> runtime, std::size_t slot_bytes);
  Uploads(const Uploads&) = delete;
  Uploads& operator=(const Uploads&) = delete;
  ~Uploads();

  /// The memory of a slot.
  std::byte* slot(int idx) const;
  /// Waits until a slot may be written again; of any thread.
  void wait_for(int idx);
  /// Starts what a slot's rows are written for; of any thread.
  void start(int idx, const UploadedRows& rows);
  /// Waits for all that was started.
  void finish();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

} // namespace qwen3_mlx::cuda
