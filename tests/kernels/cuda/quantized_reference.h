// SPDX-License-Identifier: MIT
// Quantized caches as mx::quantize (mode affine) makes them, on the host.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <memory>

#include "kernels/cuda/device_data.h"

namespace qwen3_mlx::cuda {

/// The nearest of the type, ties to even.
inline void encode_nearest(Float type, double value, std::uint8_t* at) {
  // Neighbours in a type of two bytes are neighbours as integers.
  const auto value_of = [&](std::uint16_t bits) {
    std::uint8_t bytes[2];
    std::memcpy(bytes, &bits, 2);
    return decode(type, bytes);
  };
  encode(type, static_cast<float>(value), at);
  std::uint16_t bits;
  std::memcpy(&bits, at, 2);
  std::uint16_t best = bits;
  for (const int step : {-1, 1}) {
    const auto other = static_cast<std::uint16_t>(bits + step);
    const double gain =
        std::abs(value_of(best) - value) - std::abs(value_of(other) - value);
    if (gain > 0 || (gain == 0 && other % 2 == 0)) {
      best = other;
    }
  }
  std::memcpy(at, &best, 2);
}

/// Heads of positions [count, head_dim] in codes, and what they mean.
struct QuantizedNumbers {
  Float type;
  KvForm form;
  int head_dim;
  std::vector<std::uint8_t> codes;
  std::vector<std::uint8_t> scales;
  std::vector<std::uint8_t> biases;

  QuantizedNumbers(Float of, const KvForm& kv, int dim, std::size_t count)
      : type(of), form(kv), head_dim(dim), codes(count * row_bytes()),
        scales(count * num_groups() * 2), biases(count * num_groups() * 2) {}

  std::size_t row_bytes() const {
    return static_cast<std::size_t>(head_dim * form.bits / 8);
  }
  std::size_t num_groups() const {
    return static_cast<std::size_t>(head_dim / form.group);
  }

  /// Puts head_dim elements at row `row`.
  void quantize(const double* from, std::size_t row) {
    const auto n = static_cast<std::size_t>(form.group);
    const float bins = static_cast<float>((1 << form.bits) - 1);
    for (std::size_t g = 0; g < num_groups(); ++g) {
      const double* const group = from + g * n;
      const auto [least_at, greatest_at] =
          std::minmax_element(group, group + n);
      const auto least = static_cast<float>(*least_at);
      const auto greatest = static_cast<float>(*greatest_at);
      const bool from_least = std::abs(least) > std::abs(greatest);
      float scale = std::max((greatest - least) / bins, 1e-7F);
      scale = from_least ? scale : -scale;
      const float edge = from_least ? least : greatest;
      const float at_edge = std::nearbyint(edge / scale);
      float bias = 0;
      if (at_edge != 0) {
        scale = edge / at_edge;
        bias = edge;
      }
      for (std::size_t d = 0; d < n; ++d) {
        const float code = std::clamp(
            std::nearbyint((static_cast<float>(group[d]) - bias) / scale),
            0.0F,
            bins);
        set_code(row, g * n + d, static_cast<int>(code));
      }
      const std::size_t at = (row * num_groups() + g) * 2;
      encode_nearest(type, static_cast<double>(scale), scales.data() + at);
      encode_nearest(type, static_cast<double>(bias), biases.data() + at);
    }
  }

  /// The number at dimension `d` of row `row`.
  double value(std::size_t row, std::size_t d) const {
    const std::size_t group = d / static_cast<std::size_t>(form.group);
    const std::size_t at = (row * num_groups() + group) * 2;
    const std::uint8_t byte =
        codes[row * row_bytes() + d * static_cast<std::size_t>(form.bits) / 8];
    const int code = form.bits == 8 ? byte : byte >> (d % 2 * 4) & 15;
    return decode(type, scales.data() + at) * code +
        decode(type, biases.data() + at);
  }
  double scale(std::size_t row, std::size_t d) const {
    const std::size_t group = d / static_cast<std::size_t>(form.group);
    return decode(type, scales.data() + (row * num_groups() + group) * 2);
  }

 private:
  void set_code(std::size_t row, std::size_t d, int code) {
    auto& byte =
        codes[row * row_bytes() + d * static_cast<std::size_t>(form.bits) / 8];
    byte = static_cast<std::uint8_t>(
        form.bits == 8   ? code
            : d % 2 == 0 ? (byte & 0xf0) | code
                         : (byte & 0x0f) | code << 4);
  }
};

/// The same in the GPU's memory.
class QuantizedOnDevice {
 public:
  explicit QuantizedOnDevice(const QuantizedNumbers& from)
      : like_(from), codes_(from.codes), scales_(from.scales),
        biases_(from.biases) {}

  void* codes() const {
    return codes_.get();
  }
  void* scales() const {
    return scales_.get();
  }
  void* biases() const {
    return biases_.get();
  }
  QuantizedNumbers read() const {
    QuantizedNumbers numbers = like_;
    numbers.codes = codes_.read();
    numbers.scales = scales_.read();
    numbers.biases = biases_.read();
    return numbers;
  }

 private:
  QuantizedNumbers like_;
  DeviceArray<std::uint8_t> codes_;
  DeviceArray<std::uint8_t> scales_;
  DeviceArray<std::uint8_t> biases_;
};

/// The cache of one sequence, random up to `length` and poisoned behind.
struct QuantizedCache {
  int capacity;
  QuantizedNumbers keys; ///< [num_kv_heads, capacity, head_dim]
  QuantizedNumbers values;
  std::unique_ptr<QuantizedOnDevice> keys_on_device;
  std::unique_ptr<QuantizedOnDevice> values_on_device;

  QuantizedCache(
      std::mt19937& rng,
      Float type,
      const KvForm& form,
      int num_kv_heads,
      int head_dim,
      int length,
      int room)
      : capacity(
            (room + kQuantizedCapacity - 1) / kQuantizedCapacity *
            kQuantizedCapacity),
        keys(type, form, head_dim, rows(num_kv_heads)),
        values(type, form, head_dim, rows(num_kv_heads)) {
    for (auto* numbers : {&keys, &values}) {
      for (auto* bytes :
           {&numbers->codes, &numbers->scales, &numbers->biases}) {
        std::fill(bytes->begin(), bytes->end(), std::uint8_t{0xff});
      }
      for (int head = 0; head < num_kv_heads; ++head) {
        for (int position = 0; position < length; ++position) {
          // Off zero, as keys are: a bias that is lost would be seen.
          const auto elements = Numbers::random(
              rng, type, static_cast<std::size_t>(head_dim), 1, 0.3F);
          numbers->quantize(elements.values.data(), row(head, position));
        }
      }
    }
    keys_on_device = std::make_unique<QuantizedOnDevice>(keys);
    values_on_device = std::make_unique<QuantizedOnDevice>(values);
  }

  std::size_t row(int head, int position) const {
    return static_cast<std::size_t>(head * capacity + position);
  }
  DecodeSequence sequence(int offset) const {
    return {
        .keys = keys_on_device->codes(),
        .values = values_on_device->codes(),
        .capacity = capacity,
        .offset = offset,
        .key_scales = keys_on_device->scales(),
        .key_biases = keys_on_device->biases(),
        .value_scales = values_on_device->scales(),
        .value_biases = values_on_device->biases()};
  }

 private:
  std::size_t rows(int num_kv_heads) const {
    return static_cast<std::size_t>(num_kv_heads * capacity);
  }
};

/// That a row holds what `elements` quantize to: to the bit if `exact`. Else
/// they were not rounded yet, and a number may be off by a code: the affine
/// form has its zero on a code, so that the other end of its range may fall
/// short.
inline void expect_row(
    const QuantizedNumbers& got,
    std::size_t row,
    const double* elements,
    bool exact) {
  QuantizedNumbers expected(got.type, got.form, got.head_dim, 1);
  expected.quantize(elements, 0);
  const auto D = static_cast<std::size_t>(got.head_dim);
  for (std::size_t d = 0; d < D; ++d) {
    if (exact) {
      ASSERT_EQ(got.value(row, d), expected.value(0, d)) << d;
      ASSERT_EQ(got.scale(row, d), expected.scale(0, d)) << d;
    } else {
      ASSERT_NEAR(
          got.value(row, d),
          elements[d],
          0.01 * (1 + std::abs(elements[d])) +
              1.1 * std::abs(expected.scale(0, d)))
          << d;
    }
  }
}

} // namespace qwen3_mlx::cuda
