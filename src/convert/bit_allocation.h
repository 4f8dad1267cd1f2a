// SPDX-License-Identifier: MIT
// How many bits each matrix gets of those that all may have.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace qwen3_mlx {

/// Bits per number of affine quantization, ascending.
inline constexpr std::array<int, 6> bit_widths{2, 3, 4, 5, 6, 8};

/// One matrix, and what each width does to the model.
struct BitCandidate {
  std::uint64_t n_elements = 0;
  double overhead = 0; ///< Bits a weight of scales and biases.
  /// By index into `bit_widths`: finite and not negative. Damages of several
  /// matrices are added.
  std::array<double, bit_widths.size()> damages{};
};

/// By candidate, an index into `bit_widths`.
using BitAllocation = std::vector<std::size_t>;

/// Bits per weight, overhead among them.
double mean_bits(
    std::span<const BitCandidate> candidates,
    const BitAllocation& allocation);

double total_damage(
    std::span<const BitCandidate> candidates,
    const BitAllocation& allocation);

/// The widest that all can have with a mean of at most `target` bits a weight;
/// nothing when the narrowest is too wide.
std::optional<std::size_t>
widest_uniform(std::span<const BitCandidate> candidates, double target);

/// Begins with width `least` for all, which must be one that all can have, and
/// gives bits where each mends most, until the mean is `target` or no step fits
/// any more. Total damage is never above that of the widest uniform width.
BitAllocation allocate_bits(
    std::span<const BitCandidate> candidates,
    double target,
    std::size_t least);

} // namespace qwen3_mlx
