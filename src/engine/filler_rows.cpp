// SPDX-License-Identifier: MIT
#include "engine/filler_rows.h"

#include <algorithm>

#include <mlx/mlx.h>

namespace qwen3_mlx::engine {
namespace {

// Fillers grow as others do, since a position that jumps has to be told to the
// GPU, and begin anew before their caches need more room.
constexpr int max_length = 200;

int round_up(int value, int multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

} // namespace

int filled_batch(int num_sequences) {
  if (num_sequences <= 8) {
    return num_sequences;
  }
  const int multiple = num_sequences <= 64 ? 8 : num_sequences <= 256 ? 16 : 32;
  return round_up(num_sequences, multiple);
}

FillerRows::FillerRows(Model model) : model_(std::move(model)) {}

FillerRows::Caches FillerRows::make() const {
  if (!rows_.empty()) {
    Caches copies;
    for (const auto& cache : rows_.front()) {
      copies.push_back(cache.copy());
    }
    return copies;
  }
  auto caches = model_.make_cache();
  model_
      .forward(
          {mx::array({0U}, mx::uint32),
           {{.cache = caches, .length = 1}},
           std::vector<int>{0}})
      .eval();
  return caches;
}

std::vector<Segment> FillerRows::segments(int count) {
  while (static_cast<int>(rows_.size()) < count) {
    rows_.push_back(make());
  }
  std::vector<Segment> segments;
  for (int idx = 0; idx < count; ++idx) {
    auto& caches = rows_[static_cast<std::size_t>(idx)];
    // After a step that failed, layers may hold more or less than others.
    const int length = caches.front().offset();
    const bool goes_on = length < max_length &&
        std::ranges::all_of(caches, [&](const KVCache& cache) {
                           return cache.offset() == length;
                         });
    if (!goes_on) {
      for (auto& cache : caches) {
        cache.trim(cache.offset() - 1);
      }
    }
    segments.push_back({.cache = caches, .length = 1});
  }
  return segments;
}

} // namespace qwen3_mlx::engine
