// SPDX-License-Identifier: MIT
// Large temporary memory that operations take and give back. Fresh memory of
// this size comes from the system page by page, each to be cleared, at every
// operation again.
#pragma once

#include <cstddef>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

namespace qwen3_mlx::cpu {

/// Buffers between two uses. May be called from any thread.
class ScratchPool {
 public:
  struct Block {
    std::unique_ptr<std::byte[]> data;
    std::size_t size = 0;
  };

  /// A buffer of at least `n_bytes`, uninitialized.
  Block take(std::size_t n_bytes);
  void give_back(Block block);

 private:
  std::mutex mutex_;
  std::vector<Block> free_; // guarded by mutex_
};

/// `count` elements out of a pool, or of their own where there is none.
template <class T>
class Scratch {
 public:
  Scratch(ScratchPool* pool, std::size_t count)
      : pool_(pool), block_(
                         pool != nullptr ? pool->take(count * sizeof(T))
                                         : fresh(count * sizeof(T))) {}
  ~Scratch() {
    if (pool_ != nullptr) {
      pool_->give_back(std::move(block_));
    }
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  T* get() const {
    return reinterpret_cast<T*>(block_.data.get());
  }

 private:
  static ScratchPool::Block fresh(std::size_t n_bytes) {
    return {std::unique_ptr<std::byte[]>(new std::byte[n_bytes]), n_bytes};
  }

  ScratchPool* pool_;
  ScratchPool::Block block_;
};

} // namespace qwen3_mlx::cpu
