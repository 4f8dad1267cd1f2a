// SPDX-License-Identifier: MIT
#include "qwen3_mlx/nn/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "mlx/fast.h"

namespace qwen3_mlx {
namespace {

// Periods of the plain embedding: base^(2 i / dims).
std::vector<double> plain_periods(double base, int dims) {
  std::vector<double> periods(static_cast<std::size_t>(dims / 2));
  for (std::size_t i = 0; i < periods.size(); ++i) {
    periods[i] = std::pow(base, 2.0 * static_cast<double>(i) / dims);
  }
  return periods;
}

// The temperature of YaRN, equation 22 with its constant 0.1.
double yarn_temperature(double factor, double mscale) {
  return factor <= 1.0 ? 1.0 : 0.1 * mscale * std::log(factor) + 1.0;
}

// YaRN: fast pairs keep their period, slow ones are interpolated by `factor`,
// those between are blended (arXiv 2309.00071, section 3.2).
std::vector<double>
yarn_periods(const RopeArgs& args, int dims, int original_length) {
  const auto pair_of_rotations = [&](double rotations) {
    return dims *
        std::log(original_length / (rotations * 2.0 * std::numbers::pi)) /
        (2.0 * std::log(static_cast<double>(args.theta)));
  };
  double low = pair_of_rotations(args.beta_fast);
  double high = pair_of_rotations(args.beta_slow);
  if (args.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, dims - 1.0);
  if (low == high) {
    high += 0.001; // no division by zero
  }
  auto periods = plain_periods(args.theta, dims);
  for (std::size_t i = 0; i < periods.size(); ++i) {
    const double slow =
        std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    periods[i] /= slow / args.factor + (1.0 - slow);
  }
  return periods;
}

// Llama 3: wavelengths past the old context are stretched by `factor`, short
// ones kept, those between blended.
std::vector<double>
llama3_periods(const RopeArgs& args, int dims, int original_length) {
  auto periods = plain_periods(args.theta, dims);
  for (auto& period : periods) {
    const double rotations =
        original_length / (2.0 * std::numbers::pi * period);
    const double keep = std::clamp(
        (rotations - args.low_freq_factor) /
            (args.high_freq_factor - args.low_freq_factor),
        0.0,
        1.0);
    period /= (1.0 - keep) / args.factor + keep;
  }
  return periods;
}

mx::array to_array(const std::vector<double>& periods) {
  const std::vector<float> values(periods.begin(), periods.end());
  return mx::array(values.begin(), {static_cast<int>(values.size())});
}

} // namespace

Rope::Rope(const RopeArgs& args, int head_dim, int max_position_embeddings)
    : args_(args), dims_(head_dim), max_positions_(max_position_embeddings),
      periods_(to_array(periods(0))) {
  if (args.type != RopeType::yarn) {
    return;
  }
  double factor = yarn_temperature(args.factor, 1.0);
  if (args.mscale && args.mscale_all_dim) {
    factor = yarn_temperature(args.factor, *args.mscale) /
        yarn_temperature(args.factor, *args.mscale_all_dim);
  }
  attention_factor_ =
      args.attention_factor.value_or(static_cast<float>(factor));
}

std::vector<double> Rope::periods(int total_length) const {
  const int original_length =
      args_.original_max_position_embeddings.value_or(max_positions_);
  switch (args_.type) {
  case RopeType::none:
    return plain_periods(args_.theta, dims_);
  case RopeType::linear: {
    auto periods = plain_periods(args_.theta, dims_);
    for (auto& period : periods) {
      period *= args_.factor;
    }
    return periods;
  }
  case RopeType::dynamic: {
    // The base grows with the sequence once it is past the trained length.
    const double length = std::max(total_length, original_length);
    const double stretch =
        args_.factor * length / original_length - (args_.factor - 1.0);
    const double exponent = dims_ / (dims_ - 2.0);
    return plain_periods(args_.theta * std::pow(stretch, exponent), dims_);
  }
  case RopeType::yarn:
    return yarn_periods(args_, dims_, original_length);
  case RopeType::llama3:
    return llama3_periods(args_, dims_, original_length);
  }
  return {};
}

mx::array Rope::periods_array(int total_length) const {
  const int original_length =
      args_.original_max_position_embeddings.value_or(max_positions_);
  const bool stretched =
      args_.type == RopeType::dynamic && total_length > original_length;
  return stretched ? to_array(periods(total_length)) : periods_;
}

mx::array
Rope::operator()(const mx::array& x, int offset, int total_length) const {
  return mx::fast::rope(
      x,
      dims_,
      /* traditional */ false,
      /* base */ std::nullopt,
      /* scale */ 1.0f,
      offset,
      periods_array(total_length));
}

} // namespace qwen3_mlx
