// SPDX-License-Identifier: MIT
#include "cli/held_cache.h"

#include <algorithm>
#include <utility>

namespace qwen3_mlx::cli {

HeldCache::HeldCache(std::vector<KVCache> cache, std::vector<std::uint32_t> ids)
    : cache_(std::move(cache)), ids_(std::move(ids)) {}

std::size_t HeldCache::keep_prefix_of(std::span<const std::uint32_t> ids) {
  const auto shared = static_cast<std::size_t>(
      std::mismatch(ids_.begin(), ids_.end(), ids.begin(), ids.end()).first -
      ids_.begin());
  trim_to(std::min(shared, ids.empty() ? 0 : ids.size() - 1));
  return ids_.size();
}

void HeldCache::extend(std::span<const std::uint32_t> ids) {
  ids_.insert(ids_.end(), ids.begin(), ids.end());
  const auto offset = static_cast<std::size_t>(cache_.front().offset());
  if (offset <= ids_.size()) {
    ids_.resize(offset);
  } else {
    trim_to(ids_.size());
  }
}

void HeldCache::forget() {
  ids_.clear();
  for (auto& layer : cache_) {
    layer.reset();
  }
}

bool HeldCache::can_trim(int n) const {
  const int offset = cache_.front().offset();
  return n >= 0 &&
      std::all_of(cache_.begin(), cache_.end(), [&](const KVCache& layer) {
           return layer.offset() == offset && (n == 0 || layer.can_trim(n));
         });
}

void HeldCache::trim_to(std::size_t n_ids) {
  const int surplus = cache_.front().offset() - static_cast<int>(n_ids);
  if (!can_trim(surplus)) {
    forget();
    return;
  }
  // Should memory run out on the way, what is held counts as nothing.
  auto ids = std::exchange(ids_, {});
  if (surplus > 0) {
    for (auto& layer : cache_) {
      layer.trim(surplus);
    }
  }
  ids.resize(n_ids);
  ids_ = std::move(ids);
}

} // namespace qwen3_mlx::cli
