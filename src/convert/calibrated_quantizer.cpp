// SPDX-License-Identifier: MIT
#include "convert/calibrated_quantizer.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "mlx/linalg.h"
#include "mlx/ops.h"
#include "mlx/transforms.h"

namespace qwen3_mlx {
namespace {

constexpr std::size_t max_group_size = 128;

float rounded_to(DType dtype, float value) {
  round_to(dtype, {&value, 1});
  return value;
}

float nearest(float value, AffineGrid group, float largest) {
  return std::clamp(
      std::nearbyint((value - group.bias) / group.scale), 0.0f, largest);
}

float largest_of(int bits) {
  return static_cast<float>((1 << bits) - 1);
}

/// The line through (q, value) with the least weighted error.
AffineGrid fitted(
    std::span<const float> values,
    std::span<const float> costs,
    float largest,
    AffineGrid group) {
  double n = 0, q_sum = 0, qq = 0, v_sum = 0, qv = 0;
  for (std::size_t idx = 0; idx < values.size(); ++idx) {
    const double cost = costs[idx];
    const double q = nearest(values[idx], group, largest);
    n += cost;
    q_sum += cost * q;
    qq += cost * q * q;
    v_sum += cost * values[idx];
    qv += cost * q * values[idx];
  }
  const double determinant = n * qq - q_sum * q_sum;
  if (!(determinant > 1e-12 * n * qq)) {
    return group;
  }
  const double scale = (n * qv - q_sum * v_sum) / determinant;
  return {
      static_cast<float>(scale),
      static_cast<float>((v_sum - scale * q_sum) / n)};
}

} // namespace

double group_error(
    std::span<const float> values,
    std::span<const float> costs,
    int bits,
    AffineGrid group) {
  const float largest = largest_of(bits);
  float error = 0;
  for (std::size_t idx = 0; idx < values.size(); ++idx) {
    const float q = nearest(values[idx], group, largest);
    const float difference = values[idx] - (group.scale * q + group.bias);
    error += costs[idx] * difference * difference;
  }
  return error;
}

AffineGrid search_group(
    std::span<const float> values,
    std::span<const float> costs,
    int bits,
    DType dtype) {
  // Parts of the whole range; below a half too much is clipped to win.
  constexpr std::array<float, 9> shares{
      1.0f, 0.95f, 0.9f, 0.85f, 0.8f, 0.75f, 0.7f, 0.62f, 0.54f};
  constexpr int n_fits = 2;
  const float largest = largest_of(bits);
  const auto [low, high] = std::minmax_element(values.begin(), values.end());
  AffineGrid best{1.0f, rounded_to(dtype, *low)};
  double least = group_error(values, costs, bits, best);
  const auto consider = [&](AffineGrid group) {
    group = {rounded_to(dtype, group.scale), rounded_to(dtype, group.bias)};
    if (group.scale == 0 || !std::isfinite(group.scale) ||
        !std::isfinite(group.bias)) {
      return;
    }
    const double error = group_error(values, costs, bits, group);
    if (error < least) {
      least = error;
      best = group;
    }
  };
  for (const float share : shares) {
    consider({(*high - *low) * share / largest, *low * share});
  }
  for (int fit = 0; fit < n_fits; ++fit) {
    consider(fitted(values, costs, largest, best));
  }
  return best;
}

void round_to_group(
    std::span<float> values,
    std::span<const float> costs,
    int bits,
    DType dtype) {
  const auto group = search_group(values, costs, bits, dtype);
  for (float& value : values) {
    value = group.scale * nearest(value, group, largest_of(bits)) + group.bias;
  }
}

ErrorFeedback::ErrorFeedback(const mx::array& moment, double damping)
    : size_(static_cast<std::size_t>(moment.shape(0))) {
  // LAPACK's: on the CPU, whatever the default device is.
  const auto cpu = mx::Device(mx::Device::cpu);
  const auto diagonal = mx::diagonal(moment, 0, 0, 1, cpu);
  const auto mean =
      mx::maximum(mx::mean(diagonal, false, cpu), mx::array(1e-12f), cpu);
  const auto damped = mx::add(
      moment,
      mx::multiply(
          mx::multiply(mean, mx::array(static_cast<float>(damping)), cpu),
          mx::eye(moment.shape(0), mx::float32, cpu),
          cpu),
      cpu);
  const auto lower = mx::linalg::cholesky(damped, /* upper */ false, cpu);
  const auto inverse = mx::linalg::cholesky_inv(lower, false, cpu);
  auto upper = mx::contiguous(
      mx::linalg::cholesky(inverse, /* upper */ true, cpu), false, cpu);
  mx::eval(upper);
  upper_.assign(upper.data<float>(), upper.data<float>() + size_ * size_);
  for (std::size_t idx = 0; idx < size_; ++idx) {
    const float diagonal_value = *row(idx);
    costs_.push_back(1.0f / (diagonal_value * diagonal_value));
  }
}

CalibratedQuantizer::CalibratedQuantizer(
    QuantFormat format,
    DType dtype,
    std::shared_ptr<const ErrorFeedback> feedback)
    : format_(format), dtype_(dtype), feedback_(std::move(feedback)) {}

void CalibratedQuantizer::quantize_row(std::span<float> row, PackedRow out)
    const {
  const auto group_size = static_cast<std::size_t>(format_.group_size);
  const float largest = largest_of(format_.bits);
  std::array<std::uint8_t, max_group_size> numbers{};
  std::array<float, max_group_size> costs{};
  std::array<float, max_group_size> errors{};
  const auto float_bytes = static_cast<std::size_t>(dtype_bits(dtype_) / 8);
  for (std::size_t begin = 0; begin < row.size(); begin += group_size) {
    const auto end = begin + group_size;
    for (std::size_t idx = 0; idx < group_size; ++idx) {
      costs[idx] = feedback_->cost(begin + idx);
    }
    const auto group = search_group(
        row.subspan(begin, group_size),
        std::span(costs).first(group_size),
        format_.bits,
        dtype_);
    for (std::size_t idx = begin; idx < end; ++idx) {
      const float q = nearest(row[idx], group, largest);
      numbers[idx - begin] = static_cast<std::uint8_t>(q);
      const auto* upper = feedback_->row(idx);
      const float error =
          (row[idx] - (group.scale * q + group.bias)) / upper[0];
      errors[idx - begin] = error;
      for (std::size_t later = idx + 1; later < end; ++later) {
        row[later] -= error * upper[later - idx];
      }
    }
    // The groups to the right, all errors of this one at once.
    for (std::size_t idx = begin; idx < end; ++idx) {
      const auto* upper = feedback_->row(idx) - idx;
      const float error = errors[idx - begin];
      for (std::size_t later = end; later < row.size(); ++later) {
        row[later] -= error * upper[later];
      }
    }
    pack_numbers(numbers.data(), group_size, format_.bits, out.packed);
    narrow(dtype_, {&group.scale, 1}, out.scales);
    narrow(dtype_, {&group.bias, 1}, out.biases);
    out.packed += group_size * static_cast<std::size_t>(format_.bits) / 8;
    out.scales += float_bytes;
    out.biases += float_bytes;
  }
}

} // namespace qwen3_mlx
