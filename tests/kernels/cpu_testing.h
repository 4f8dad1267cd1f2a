// SPDX-License-Identifier: MIT
// Random operands for the tests and benchmarks of the CPU kernels, and the
// plain definitions they are compared with.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "kernels/cpu/packed_matrix.h"

namespace qwen3_mlx::cpu::testing {

inline std::vector<float>
random_floats(std::size_t count, unsigned seed, float deviation = 1.0F) {
  std::mt19937 engine(seed);
  std::normal_distribution<float> normal(0.0F, deviation);
  std::vector<float> values(count);
  for (float& value : values) {
    value = normal(engine);
  }
  return values;
}

inline std::vector<std::byte>
encode(const std::vector<float>& values, Float type) {
  std::vector<std::byte> bytes(values.size() * size_of(type));
  for (std::size_t idx = 0; idx < values.size(); ++idx) {
    store_float(bytes.data(), type, idx, values[idx]);
  }
  return bytes;
}

inline std::vector<float>
decode(const void* data, Float type, std::size_t count) {
  std::vector<float> values(count);
  for (std::size_t idx = 0; idx < count; ++idx) {
    values[idx] = load_float(data, type, idx);
  }
  return values;
}

/// A random matrix as a checkpoint would hold it, with its buffers.
struct TestMatrix {
  SourceMatrix source;
  std::vector<std::byte> weight;
  std::vector<std::byte> scales;
  std::vector<std::byte> biases;

  TestMatrix(SourceMatrix format, unsigned seed) : source(format) {
    const auto rows = static_cast<std::size_t>(source.rows);
    const auto cols = static_cast<std::size_t>(source.cols);
    std::mt19937 engine(seed);
    if (source.format == SourceFormat::plain) {
      weight = encode(
          random_floats(rows * cols, seed, 1.0F / std::sqrt(float(cols))),
          source.type);
      source.weight = weight.data();
      return;
    }
    weight.resize(rows * cols * static_cast<std::size_t>(source.bits) / 8);
    for (std::byte& byte : weight) {
      byte = static_cast<std::byte>(engine());
    }
    const std::size_t groups =
        rows * cols / static_cast<std::size_t>(source.group);
    if (source.format == SourceFormat::affine) {
      std::vector<float> s(groups);
      std::vector<float> b(groups);
      const float levels = float((1 << source.bits) - 1);
      for (std::size_t idx = 0; idx < groups; ++idx) {
        s[idx] = (0.5F + float(engine() % 1000) / 1000.0F) / levels;
        b[idx] = -s[idx] * levels * (0.4F + float(engine() % 200) / 1000.0F);
      }
      scales = encode(s, source.type);
      biases = encode(b, source.type);
      source.biases = biases.data();
    } else {
      scales.resize(groups);
      for (std::byte& byte : scales) {
        byte = static_cast<std::byte>(
            source.format == SourceFormat::nvfp4 ? 0x28 + engine() % 32
                                                 : 120 + engine() % 8);
      }
      if (source.format == SourceFormat::mxfp8) {
        for (std::byte& byte : weight) { // no NaN
          if ((std::to_integer<int>(byte) & 0x7f) == 0x7f) {
            byte = std::byte{0x30};
          }
        }
      }
    }
    source.weight = weight.data();
    source.scales = scales.data();
  }

  /// What the checkpoint means by element (row, col), read bit by bit.
  double value(int row, int col) const {
    const auto index =
        static_cast<std::size_t>(row) * static_cast<std::size_t>(source.cols) +
        static_cast<std::size_t>(col);
    if (source.format == SourceFormat::plain) {
      return load_float(weight.data(), source.type, index);
    }
    unsigned code = 0;
    for (int bit = 0; bit < source.bits; ++bit) {
      const std::size_t at = index * static_cast<std::size_t>(source.bits) +
          static_cast<std::size_t>(bit);
      code |= ((std::to_integer<unsigned>(weight[at / 8]) >> (at % 8)) & 1U)
          << bit;
    }
    const std::size_t group = index / static_cast<std::size_t>(source.group);
    if (source.format == SourceFormat::affine) {
      return double(load_float(scales.data(), source.type, group)) * code +
          double(load_float(biases.data(), source.type, group));
    }
    const auto scale = std::to_integer<unsigned>(scales[group]);
    const double power = source.format == SourceFormat::nvfp4
        ? minifloat(scale, 4, 3)
        : std::ldexp(1.0, int(scale) - 127);
    return power *
        (source.format == SourceFormat::mxfp8 ? minifloat(code, 4, 3)
                                              : minifloat(code, 2, 1));
  }

  static double minifloat(unsigned code, int exponent_bits, int mantissa_bits) {
    const int bias = (1 << (exponent_bits - 1)) - 1;
    const unsigned mantissa = code & ((1U << mantissa_bits) - 1U);
    const int exponent =
        int((code >> mantissa_bits) & ((1U << exponent_bits) - 1U));
    const double fraction = mantissa / double(1 << mantissa_bits);
    const double magnitude = exponent == 0
        ? std::ldexp(fraction, 1 - bias)
        : std::ldexp(1 + fraction, exponent - bias);
    return (code >> (exponent_bits + mantissa_bits)) != 0 ? -magnitude
                                                          : magnitude;
  }
};

/// The matrix in tiles.
struct TestPacked {
  PackedLayout layout;
  std::vector<std::byte> data;

  explicit TestPacked(const SourceMatrix& source)
      : layout(packed_layout(source).value()), data(layout.n_bytes()) {
    pack_tiles(source, layout, 0, layout.num_tiles(), data.data());
  }
};

inline double relative_error(
    const std::vector<float>& found,
    const std::vector<double>& expected) {
  double error = 0;
  double norm = 0;
  for (std::size_t idx = 0; idx < found.size(); ++idx) {
    error += (found[idx] - expected[idx]) * (found[idx] - expected[idx]);
    norm += expected[idx] * expected[idx];
  }
  return norm > 0 ? std::sqrt(error / norm) : std::sqrt(error);
}

/// All formats, at `rows` x `cols` (a multiple of 128).
inline std::vector<SourceMatrix> all_formats(int rows, int cols) {
  std::vector<SourceMatrix> formats;
  for (const Float type : {Float::f32, Float::f16, Float::bf16}) {
    formats.push_back(
        {.rows = rows,
         .cols = cols,
         .format = SourceFormat::plain,
         .type = type});
  }
  for (const int bits : {2, 3, 4, 5, 6, 8}) {
    for (const int group : {32, 64, 128}) {
      formats.push_back(
          {.rows = rows,
           .cols = cols,
           .format = SourceFormat::affine,
           .bits = bits,
           .group = group,
           .type = group == 32 ? Float::f16
               : group == 64   ? Float::bf16
                               : Float::f32});
    }
  }
  formats.push_back(
      {.rows = rows,
       .cols = cols,
       .format = SourceFormat::mxfp4,
       .bits = 4,
       .group = 32});
  formats.push_back(
      {.rows = rows,
       .cols = cols,
       .format = SourceFormat::mxfp8,
       .bits = 8,
       .group = 32});
  formats.push_back(
      {.rows = rows,
       .cols = cols,
       .format = SourceFormat::nvfp4,
       .bits = 4,
       .group = 16});
  return formats;
}

} // namespace qwen3_mlx::cpu::testing
