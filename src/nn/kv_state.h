// SPDX-License-Identifier: MIT
// Checked access to what a cache saved: arrays and counters by name.
#pragma once

#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "mlx/array.h"

namespace qwen3_mlx {
namespace mx = mlx::core;

class KVState {
 public:
  KVState(
      const std::vector<std::pair<std::string, mx::array>>& arrays,
      const std::vector<std::pair<std::string, int>>& counters)
      : arrays_(arrays), counters_(counters) {}

  /// The counter, in [low, high]; InvalidArgument otherwise.
  int counter(std::string_view name, int low, int high) const;
  /// The array of that name, which must have 4 dimensions; absent for a cache
  /// that was saved empty.
  std::optional<mx::array> positions(std::string_view name) const;
  /// Positions that the arrays of those names hold, 0 when they are absent;
  /// InvalidArgument when they differ in it.
  int capacity(std::initializer_list<std::string_view> names) const;

 private:
  const std::vector<std::pair<std::string, mx::array>>& arrays_;
  const std::vector<std::pair<std::string, int>>& counters_;
};

} // namespace qwen3_mlx
