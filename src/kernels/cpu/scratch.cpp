// SPDX-License-Identifier: MIT
#include "kernels/cpu/scratch.h"

#include <algorithm>
#include <utility>

#include "base/huge_pages.h"

namespace qwen3_mlx::cpu {

namespace {

// An operation has two at a time; more would only hold memory.
constexpr std::size_t kMostFree = 2;
// Larger ones are not kept: the work done in them is longer still.
constexpr std::size_t kMostBytesKept = std::size_t{256} << 20;

} // namespace

ScratchPool::Block ScratchPool::take(std::size_t n_bytes) {
  {
    const std::lock_guard lock(mutex_);
    const auto fits =
        std::find_if(free_.begin(), free_.end(), [&](const Block& block) {
          return block.size >= n_bytes;
        });
    if (fits != free_.end()) {
      Block block = std::move(*fits);
      free_.erase(fits);
      return block;
    }
  }
  Block block{std::unique_ptr<std::byte[]>(new std::byte[n_bytes]), n_bytes};
  advise_huge_pages(block.data.get(), n_bytes);
  return block;
}

void ScratchPool::give_back(Block block) {
  if (block.size > kMostBytesKept) {
    return;
  }
  const std::lock_guard lock(mutex_);
  free_.push_back(std::move(block));
  // The smallest first, so that take() finds the one that fits best and the
  // ones that were outgrown go.
  std::sort(free_.begin(), free_.end(), [](const Block& a, const Block& b) {
    return a.size < b.size;
  });
  if (free_.size() > kMostFree) {
    free_.erase(free_.begin());
  }
}

} // namespace qwen3_mlx::cpu
