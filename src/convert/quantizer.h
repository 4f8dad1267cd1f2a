// SPDX-License-Identifier: MIT
// Packing rows of numbers as mx::quantize does on the CPU, to the bit.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "formats/safetensors.h"
#include "qwen3_mlx/matrix.h"

namespace qwen3_mlx {

/// float32 to the nearest number of `dtype` (f32, f16 or bf16), ties to even,
/// as its bytes.
void narrow(DType dtype, std::span<const float> from, std::byte* out);

/// The same, back as float32.
void round_to(DType dtype, std::span<float> values);

/// 0 of none; NaN where one is NaN.
float largest_magnitude(const float* values, std::size_t count);

/// Numbers of `bits` each after each other, little-endian, as MLX packs them;
/// `count` is a multiple of 8.
void pack_numbers(
    const std::uint8_t* numbers,
    std::size_t count,
    int bits,
    std::byte* out);

/// Where quantize_row() writes: the row's packed numbers, its scales and, in
/// mode affine, its biases.
struct PackedRow {
  std::byte* packed;
  std::byte* scales;
  std::byte* biases;
};

/// Quantizes rows of one format from numbers of one float type, which is also
/// that of affine scales and biases. Threads may share it.
class Quantizer {
 public:
  /// `format` must be one that is_supported() and not plain; `dtype` one of
  /// f32, f16, bf16.
  Quantizer(QuantFormat format, DType dtype);

  /// `row` holds whole groups of finite numbers of the type.
  void quantize_row(std::span<const float> row, PackedRow out) const;

 private:
  void quantize_affine(const float* group, PackedRow out) const;
  void quantize_mx(const float* group, PackedRow out) const;
  void quantize_nvfp4_groups(
      const float* groups,
      std::size_t n_groups,
      PackedRow out) const;
  void quantize_nvfp4(const float* group, std::uint8_t scale, std::byte* packed)
      const;
  /// round_to() the type of numbers that are not NaN.
  template <std::size_t count>
  void round_finite(std::array<float, count>& values) const;
  float rounded(float value) const;
  /// Of a group's numbers, each rounded to the type.
  void put_fp4(const float* values, std::uint8_t* out) const;

  QuantFormat format_;
  DType dtype_;
  std::size_t group_size_;
  std::size_t group_bytes_; ///< Packed.
  /// Of mode mxfp4: the least magnitudes that become each of FP4's but zero.
  std::array<float, 7> fp4_bounds_{};
};

} // namespace qwen3_mlx
