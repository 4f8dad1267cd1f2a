// SPDX-License-Identifier: MIT
// Random matrices with their float64 meaning, and memory of the GPU.
#pragma once

#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "kernels/cuda/kernels.h"
#include "kernels/cuda/warpgroup_gemm.h"

namespace qwen3_mlx::cuda {

inline bool has_gpu() {
  int count = 0;
  const bool found = cudaGetDeviceCount(&count) == cudaSuccess && count > 0;
  cudaGetLastError();
  return found;
}

inline Launcher make_launcher() {
  Launcher launcher;
  cudaDeviceProp properties;
  check(cudaGetDeviceProperties(&properties, 0), "device");
  check(
      cudaStreamCreateWithFlags(&launcher.stream, cudaStreamNonBlocking),
      "stream");
  launcher.num_sms = properties.multiProcessorCount;
  launcher.shared_bytes = static_cast<int>(properties.sharedMemPerBlockOptin);
  launcher.overlap = properties.major >= 9;
  launcher.has_warpgroups = properties.major == 9 && has_warpgroup_code();
  return launcher;
}

/// An array in the GPU's memory, filled with NaN patterns unless given.
template <class T>
class DeviceArray {
 public:
  explicit DeviceArray(std::size_t size) : size_(size) {
    check(cudaMalloc(&data_, n_bytes()), "allocate");
    check(cudaMemset(data_, 0xff, n_bytes()), "poison");
    // Streams of tests do not wait for the default one.
    check(cudaDeviceSynchronize(), "poison");
  }
  explicit DeviceArray(const std::vector<T>& values)
      : DeviceArray(values.size()) {
    check(
        cudaMemcpy(
            data_, values.data(), size_ * sizeof(T), cudaMemcpyHostToDevice),
        "copy");
  }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;
  ~DeviceArray() {
    cudaFree(data_);
  }

  T* get() const {
    return static_cast<T*>(data_);
  }
  std::size_t size() const {
    return size_;
  }
  std::vector<T> read() const {
    std::vector<T> values(size_);
    check(cudaDeviceSynchronize(), "run");
    check(
        cudaMemcpy(
            values.data(), data_, size_ * sizeof(T), cudaMemcpyDeviceToHost),
        "copy");
    return values;
  }

 private:
  std::size_t n_bytes() const { // never none
    return size_ * sizeof(T) + 16;
  }
  std::size_t size_;
  void* data_ = nullptr;
};

inline double decode(Float type, const std::uint8_t* at) {
  if (type == Float::f32) {
    float value;
    std::memcpy(&value, at, 4);
    return static_cast<double>(value);
  }
  std::uint16_t bits;
  std::memcpy(&bits, at, 2);
  if (type == Float::bf16) {
    return static_cast<double>(
        std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16));
  }
  const int exponent = bits >> 10 & 31;
  const double mantissa = bits & 1023;
  const double sign = (bits >> 15) != 0 ? -1 : 1;
  if (exponent == 31) {
    return mantissa == 0 ? sign * INFINITY : NAN;
  }
  return sign *
      (exponent == 0 ? std::ldexp(mantissa, -24)
                     : std::ldexp(1024 + mantissa, exponent - 25));
}

/// Rounded toward zero: any value of the type does for a test.
inline void encode(Float type, float value, std::uint8_t* at) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if (type == Float::f32) {
    std::memcpy(at, &bits, 4);
    return;
  }
  std::uint16_t half = static_cast<std::uint16_t>(bits >> 16);
  if (type == Float::f16) {
    const int exponent = static_cast<int>(bits >> 23 & 255) - 112;
    const auto sign = static_cast<std::uint16_t>(bits >> 16 & 0x8000);
    half = exponent <= 0
        ? sign
        : static_cast<std::uint16_t>(
              sign | exponent << 10 | static_cast<int>(bits >> 13 & 1023));
  }
  std::memcpy(at, &half, 2);
}

/// Floats of a type, as bytes and as numbers.
struct Numbers {
  Float type;
  std::vector<std::uint8_t> bytes;
  std::vector<double> values;

  static Numbers random(
      std::mt19937& rng,
      Float type,
      std::size_t size,
      float spread = 1,
      float center = 0) {
    std::normal_distribution<float> normal(center, spread);
    Numbers numbers{type, {}, {}};
    numbers.bytes.resize(size * size_of(type));
    numbers.values.resize(size);
    for (std::size_t i = 0; i < size; ++i) {
      auto* at = numbers.bytes.data() + i * size_of(type);
      encode(type, normal(rng), at);
      numbers.values[i] = decode(type, at);
    }
    return numbers;
  }
};

inline std::vector<double>
decode_all(Float type, const std::vector<std::uint8_t>& bytes) {
  std::vector<double> values(bytes.size() / size_of(type));
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i] = decode(type, bytes.data() + i * size_of(type));
  }
  return values;
}

/// By definition: the numbers of small floats that codes mean.
inline double e2m1_number(unsigned code) {
  constexpr std::array numbers{0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0};
  return (code & 8U) != 0 ? -numbers[code & 7U] : numbers[code & 7U];
}

inline double e4m3_number(unsigned code) {
  const int exponent = static_cast<int>(code >> 3 & 15U);
  const double fraction = code & 7U;
  const double number = exponent == 0 ? std::ldexp(fraction, -9)
                                      : std::ldexp(8 + fraction, exponent - 10);
  return (code & 128U) != 0 ? -number : number;
}

/// A matrix in MLX's form, and what it means.
struct RandomMatrix {
  PackedLayout layout;
  std::vector<std::uint8_t> weight;
  std::vector<std::uint8_t> scales;
  std::vector<std::uint8_t> biases;
  std::vector<double> values; ///< [count, rows, cols]

  RandomMatrix(std::mt19937& rng, const PackedLayout& of, int count = 1)
      : layout(of) {
    const auto n = static_cast<std::size_t>(count) *
        static_cast<std::size_t>(of.rows) * static_cast<std::size_t>(of.cols);
    values.resize(n);
    const float spread = 1.0F / std::sqrt(static_cast<float>(of.cols));
    if (of.is_plain()) {
      auto numbers = Numbers::random(rng, of.type, n, spread);
      weight = std::move(numbers.bytes);
      values = std::move(numbers.values);
      return;
    }
    weight.resize(n * static_cast<std::size_t>(of.bits) / 8);
    for (auto& byte : weight) {
      byte = static_cast<std::uint8_t>(rng());
    }
    if (of.has_small_floats()) {
      add_small_scales(rng);
      return;
    }
    const auto group = static_cast<std::size_t>(of.group);
    const float step = 4 * spread / static_cast<float>(1 << of.bits);
    auto s = Numbers::random(rng, of.type, n / group, step / 8, step);
    auto b = Numbers::random(rng, of.type, n / group, spread / 8, -2 * spread);
    for (std::size_t i = 0; i < n; ++i) {
      const int code =
          of.bits == 4 ? weight[i / 2] >> (i % 2 * 4) & 15 : weight[i];
      values[i] = s.values[i / group] * code + b.values[i / group];
    }
    scales = std::move(s.bytes);
    biases = std::move(b.bytes);
  }

  SourceForm form() const {
    switch (layout.form) {
    case CodeForm::e4m3:
      return SourceForm::mxfp8;
    case CodeForm::e2m1:
      return SourceForm::nvfp4;
    case CodeForm::affine:
      break;
    }
    return SourceForm::affine;
  }

 private:
  // Of e8m0 a group of 32, or of e4m3 one of 16.
  void add_small_scales(std::mt19937& rng) {
    const bool is_e4m3 = layout.form == CodeForm::e4m3;
    const std::size_t group = is_e4m3 ? 32 : 16;
    scales.resize(values.size() / group);
    for (auto& scale : scales) {
      scale = static_cast<std::uint8_t>(
          is_e4m3 ? 115 + rng() % 9 : rng() % 0x30); // and least ones
    }
    if (is_e4m3) {
      for (auto& byte : weight) {
        byte &= 0xBF; // no NaN
      }
    }
    for (std::size_t i = 0; i < values.size(); ++i) {
      const std::uint8_t scale = scales[i / group];
      if (is_e4m3) {
        values[i] = e4m3_number(weight[i]) * std::ldexp(1.0, scale - 127);
      } else {
        values[i] = e2m1_number(weight[i / 2] >> (i % 2 * 4) & 15U) *
            e4m3_number(scale);
      }
    }
  }
};

/// The matrix in blocks, in the GPU's memory.
class PackedOnDevice {
 public:
  PackedOnDevice(const Launcher& launcher, const RandomMatrix& m, int count = 1)
      : blocks_(m.layout.n_bytes() * static_cast<std::size_t>(count)) {
    const DeviceArray<std::uint8_t> weight(m.weight);
    const DeviceArray<std::uint8_t> scales(m.scales);
    const DeviceArray<std::uint8_t> biases(m.biases);
    pack(
        launcher,
        m.layout,
        count,
        {.weight = weight.get(),
         .scales = scales.get(),
         .biases = biases.get(),
         .form = m.form()},
        blocks_.get());
    check(cudaDeviceSynchronize(), "pack");
  }
  const std::uint8_t* get() const {
    return blocks_.get();
  }
  std::vector<std::uint8_t> read() const {
    return blocks_.read();
  }

 private:
  DeviceArray<std::uint8_t> blocks_;
};

/// |a - b| / |b|; infinite when a has a NaN.
inline double
relative_error(const std::vector<double>& a, const std::vector<double>& b) {
  double difference = 0;
  double norm = 0;
  for (std::size_t i = 0; i < b.size(); ++i) {
    if (!std::isfinite(a[i])) {
      return INFINITY;
    }
    difference += (a[i] - b[i]) * (a[i] - b[i]);
    norm += b[i] * b[i];
  }
  return std::sqrt(difference / norm);
}

/// Of an output of that type whose sums are in float32.
inline double bound(Float type) {
  return type == Float::bf16 ? 2e-3 : type == Float::f16 ? 4e-4 : 2e-5;
}

} // namespace qwen3_mlx::cuda
