// SPDX-License-Identifier: MIT
// The choice of greedy decoding.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/packed_layout.h"

namespace qwen3_mlx::cuda {

struct MostLikelyArgs {
  const void* logits = nullptr; ///< [rows, cols]
  Float type = Float::bf16;
  int rows = 1;
  int cols = 8;                 ///< A multiple of 8.
  std::uint32_t* ids = nullptr; ///< [rows]: the first greatest of each.
  /// [2, rows]: the same ids, then 1 where all logits of a row are finite.
  std::uint32_t* told = nullptr;
  void* workspace = nullptr;    ///< most_likely_workspace() bytes.
  unsigned* counters = nullptr; ///< `rows` zeros, and left so.
};

std::size_t most_likely_workspace(int rows);

void most_likely(const Launcher& launcher, const MostLikelyArgs& args);

} // namespace qwen3_mlx::cuda
