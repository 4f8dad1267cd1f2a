// SPDX-License-Identifier: MIT
// What a model has read of a text, for the next text that begins alike.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "qwen3_mlx/kv_cache.h"

namespace qwen3_mlx::cli {

/// A cache and the ids whose keys and values it holds.
class HeldCache {
 public:
  /// `ids` are what `cache` already holds.
  explicit HeldCache(
      std::vector<KVCache> cache,
      std::vector<std::uint32_t> ids = {});

  /// Makes the cache hold the longest possible prefix of `ids` that leaves at
  /// least one id to read, and returns its length. A cache that cannot be
  /// trimmed to it starts anew.
  std::size_t keep_prefix_of(std::span<const std::uint32_t> ids);

  /// Tells what was read and generated since; the cache itself says how much of
  /// it it holds.
  void extend(std::span<const std::uint32_t> ids);

  /// Makes it empty: of a step that failed, some layers may hold more than
  /// others.
  void forget();

  std::vector<KVCache>& cache() {
    return cache_;
  }
  const std::vector<std::uint32_t>& ids() const {
    return ids_;
  }

 private:
  bool can_trim(int n) const;
  void trim_to(std::size_t n_ids);

  std::vector<KVCache> cache_;
  std::vector<std::uint32_t> ids_; // may be fewer than held when memory ran out
};

} // namespace qwen3_mlx::cli
