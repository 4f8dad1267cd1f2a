// SPDX-License-Identifier: MIT
// The 16- and 8-bit floats of checkpoints, as bits. Rounding is to the nearest,
// ties to even, as every framework rounds them.
#pragma once

#include <bit>
#include <cstdint>

namespace qwen3_mlx {

inline float bf16_to_float(std::uint16_t bits) {
  return std::bit_cast<float>(std::uint32_t{bits} << 16);
}

inline std::uint16_t float_to_bf16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const auto rounded = bits + 0x7FFFu + (bits >> 16 & 1u);
  // Rounding must not turn a NaN's mantissa into that of infinity.
  const bool is_nan = (bits & 0x7FFFFFFFu) > 0x7F800000u;
  return static_cast<std::uint16_t>(
      (is_nan ? bits | 0x400000u : rounded) >> 16);
}

/// Also subnormal numbers, infinity and NaN. Free of branches, so that loops
/// over it become vectors.
inline float f16_to_float(std::uint16_t bits) {
  const std::uint32_t magnitude = std::uint32_t{bits} & 0x7FFFu;
  // The exponent's bias is moved by a product, which is exact and also scales
  // what is subnormal in 16 bits.
  const float scaled = std::bit_cast<float>(magnitude << 13) * 0x1p112f;
  const std::uint32_t special =
      magnitude >= 0x7C00u ? 0x7F800000u | magnitude << 13 : 0u;
  const std::uint32_t sign = (std::uint32_t{bits} & 0x8000u) << 16;
  return std::bit_cast<float>(
      sign | (special != 0 ? special : std::bit_cast<std::uint32_t>(scaled)));
}

inline std::uint16_t float_to_f16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const auto sign = static_cast<std::uint16_t>(bits >> 16 & 0x8000u);
  const std::uint32_t magnitude = bits & 0x7FFFFFFFu;
  if (magnitude > 0x7F800000u) {
    return static_cast<std::uint16_t>(
        sign | 0x7E00u | (magnitude >> 13 & 0x1FFu));
  }
  if (magnitude >= 0x477FF000u) { // rounds to 65536 or more
    return static_cast<std::uint16_t>(sign | 0x7C00u);
  }
  if (magnitude < 0x38800000u) { // below 2^-14: subnormal
    // Adding 0.5 puts the last bit of a subnormal half at the last bit of the
    // sum, so that the sum itself rounds.
    const float sum = std::bit_cast<float>(magnitude) + 0.5f;
    return static_cast<std::uint16_t>(
        sign | (std::bit_cast<std::uint32_t>(sum) - 0x3F000000u));
  }
  const auto rebiased = magnitude - (112u << 23);
  const auto rounded = rebiased + 0xFFFu + (rebiased >> 13 & 1u);
  return static_cast<std::uint16_t>(sign | rounded >> 13);
}

/// F8_E4M3 without infinities ("FN"): 0x7F and 0xFF are NaN, 448 is the
/// largest.
inline float f8_e4m3_to_float(std::uint8_t bits) {
  const std::uint32_t magnitude = bits & 0x7Fu;
  const float scaled = std::bit_cast<float>(magnitude << 20) * 0x1p120f;
  const float value =
      magnitude == 0x7Fu ? std::bit_cast<float>(0x7FC00000u) : scaled;
  return (bits & 0x80u) != 0 ? -value : value;
}

/// E8M0: a power of two, 2^(bits - 127). 255 is NaN.
inline float f8_e8m0_to_float(std::uint8_t bits) {
  return std::bit_cast<float>(
      bits == 0         ? 0x00400000u // 2^-127
          : bits == 255 ? 0x7FC00000u
                        : std::uint32_t{bits} << 23);
}

/// FP4 (E2M1): 0, 0.5, 1, 1.5, 2, 3, 4, 6 and their negatives.
inline constexpr float fp4_values[16] = {
    0.0f,
    0.5f,
    1.0f,
    1.5f,
    2.0f,
    3.0f,
    4.0f,
    6.0f,
    -0.0f,
    -0.5f,
    -1.0f,
    -1.5f,
    -2.0f,
    -3.0f,
    -4.0f,
    -6.0f};

} // namespace qwen3_mlx
