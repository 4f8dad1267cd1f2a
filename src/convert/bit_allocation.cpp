// SPDX-License-Identifier: MIT
#include "convert/bit_allocation.h"

#include <algorithm>
#include <queue>
#include <utility>

namespace qwen3_mlx {
namespace {

/// Wider by several widths at once where the next alone mends less a bit than
/// those behind it: a step along the lower convex hull of the damages.
struct Step {
  std::size_t to;
  double gain; ///< Damage less, a bit.
};

Step best_step(const BitCandidate& candidate, std::size_t from) {
  Step best{from + 1, -1};
  for (auto to = from + 1; to < bit_widths.size(); ++to) {
    const double gain = (candidate.damages[from] - candidate.damages[to]) /
        (static_cast<double>(bit_widths[to] - bit_widths[from]) *
         static_cast<double>(candidate.n_elements));
    if (gain > best.gain) {
      best = {to, gain};
    }
  }
  return best;
}

double n_bits(
    std::span<const BitCandidate> candidates,
    const BitAllocation& allocation) {
  double sum = 0;
  for (std::size_t idx = 0; idx < candidates.size(); ++idx) {
    sum += static_cast<double>(candidates[idx].n_elements) *
        (candidates[idx].overhead + bit_widths[allocation[idx]]);
  }
  return sum;
}

double n_weights(std::span<const BitCandidate> candidates) {
  double sum = 0;
  for (const auto& candidate : candidates) {
    sum += static_cast<double>(candidate.n_elements);
  }
  return sum;
}

/// Steps from `allocation` on, the best first, that `budget` bits pay for.
void spend(
    std::span<const BitCandidate> candidates,
    double budget,
    BitAllocation& allocation) {
  using Entry = std::pair<double, std::size_t>; // gain, candidate
  std::priority_queue<Entry> queue;
  const auto push = [&](std::size_t idx) {
    if (allocation[idx] + 1 < bit_widths.size()) {
      queue.emplace(best_step(candidates[idx], allocation[idx]).gain, idx);
    }
  };
  for (std::size_t idx = 0; idx < candidates.size(); ++idx) {
    push(idx);
  }
  while (!queue.empty()) {
    const auto [gain, idx] = queue.top();
    queue.pop();
    const auto& candidate = candidates[idx];
    const auto to = best_step(candidate, allocation[idx]).to;
    const double price =
        static_cast<double>(bit_widths[to] - bit_widths[allocation[idx]]) *
        static_cast<double>(candidate.n_elements);
    if (gain < 0 || price > budget) {
      continue; // a smaller matrix may still fit
    }
    budget -= price;
    allocation[idx] = to;
    push(idx);
  }
}

} // namespace

double mean_bits(
    std::span<const BitCandidate> candidates,
    const BitAllocation& allocation) {
  return n_bits(candidates, allocation) / n_weights(candidates);
}

double total_damage(
    std::span<const BitCandidate> candidates,
    const BitAllocation& allocation) {
  double sum = 0;
  for (std::size_t idx = 0; idx < candidates.size(); ++idx) {
    sum += candidates[idx].damages[allocation[idx]];
  }
  return sum;
}

std::optional<std::size_t>
widest_uniform(std::span<const BitCandidate> candidates, double target) {
  for (auto width = bit_widths.size(); width-- > 0;) {
    if (mean_bits(candidates, BitAllocation(candidates.size(), width)) <=
        target) {
      return width;
    }
  }
  return std::nullopt;
}

BitAllocation allocate_bits(
    std::span<const BitCandidate> candidates,
    double target,
    std::size_t least) {
  const double budget = target * n_weights(candidates);
  const auto from = [&](std::size_t width) {
    BitAllocation allocation(candidates.size(), width);
    spend(candidates, budget - n_bits(candidates, allocation), allocation);
    return allocation;
  };
  auto best = from(least);
  // Matrices are not infinitely small: what fits may be worse than all alike.
  if (const auto uniform = widest_uniform(candidates, target)) {
    auto other = from(*uniform);
    if (total_damage(candidates, other) < total_damage(candidates, best)) {
      best = std::move(other);
    }
  }
  return best;
}

} // namespace qwen3_mlx
