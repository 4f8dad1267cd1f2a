// SPDX-License-Identifier: MIT
// The number formats CPU kernels read and write, and their exact scalar
// conversions: what every vector conversion is tested against.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

// These inline functions are compiled for several instruction sets and would
// be merged by the linker into any one of them: they must vanish by inlining.
#define QWEN3_MLX_INLINE [[gnu::always_inline]] inline

namespace qwen3_mlx::cpu {

/// Element type of activations, scales, caches and plain weights.
enum class Float : std::uint8_t { f32, f16, bf16 };

/// Bytes of one element.
QWEN3_MLX_INLINE constexpr std::size_t size_of(Float type) {
  return type == Float::f32 ? 4 : 2;
}

QWEN3_MLX_INLINE float bits_to_float(std::uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

QWEN3_MLX_INLINE std::uint32_t float_to_bits(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

QWEN3_MLX_INLINE float bf16_to_float(std::uint16_t bits) {
  return bits_to_float(std::uint32_t{bits} << 16);
}

/// Rounds to nearest, ties to even; NaN stays NaN.
QWEN3_MLX_INLINE std::uint16_t float_to_bf16(float value) {
  const std::uint32_t bits = float_to_bits(value);
  if ((bits & 0x7fffffffU) > 0x7f800000U) {
    return static_cast<std::uint16_t>((bits >> 16) | 0x40U);
  }
  return static_cast<std::uint16_t>(
      (bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16);
}

QWEN3_MLX_INLINE float f16_to_float(std::uint16_t bits) {
  const std::uint32_t sign = std::uint32_t{bits & 0x8000U} << 16;
  const std::uint32_t rest = bits & 0x7fffU;
  if (rest >= 0x7c00U) { // infinity and NaN
    return bits_to_float(sign | 0x7f800000U | (rest & 0x3ffU) << 13);
  }
  if (rest < 0x400U) { // zero and subnormals: rest * 2^-24, exactly
    const float magnitude = static_cast<float>(rest) * 0x1p-24F;
    return bits_to_float(sign | float_to_bits(magnitude));
  }
  return bits_to_float(sign | ((rest << 13) + 0x38000000U));
}

/// Rounds to nearest, ties to even; too large becomes infinity.
QWEN3_MLX_INLINE std::uint16_t float_to_f16(float value) {
  const std::uint32_t bits = float_to_bits(value);
  const std::uint32_t sign = (bits >> 16) & 0x8000U;
  const std::uint32_t rest = bits & 0x7fffffffU;
  if (rest > 0x7f800000U) {
    return static_cast<std::uint16_t>(sign | 0x7e00U | ((rest >> 13) & 0x3ffU));
  }
  if (rest >= 0x477ff000U) { // rounds to 65536 or more
    return static_cast<std::uint16_t>(sign | 0x7c00U);
  }
  if (rest < 0x38800000U) { // below 2^-14: let the addition round
    const float shifted = bits_to_float(rest) + 0.5F;
    return static_cast<std::uint16_t>(
        sign | (float_to_bits(shifted) - 0x3f000000U));
  }
  const std::uint32_t odd = (rest >> 13) & 1U;
  return static_cast<std::uint16_t>(
      sign | ((rest - 0x38000000U + 0xfffU + odd) >> 13));
}

/// Element `index` of an array of `type`.
QWEN3_MLX_INLINE float
load_float(const void* data, Float type, std::size_t index) {
  const auto* bytes = static_cast<const std::byte*>(data);
  if (type == Float::f32) {
    float value;
    std::memcpy(&value, bytes + index * 4, sizeof(value));
    return value;
  }
  std::uint16_t bits;
  std::memcpy(&bits, bytes + index * 2, sizeof(bits));
  return type == Float::f16 ? f16_to_float(bits) : bf16_to_float(bits);
}

/// Rounds `value` into element `index` of an array of `type`.
QWEN3_MLX_INLINE void
store_float(void* data, Float type, std::size_t index, float value) {
  auto* bytes = static_cast<std::byte*>(data);
  if (type == Float::f32) {
    std::memcpy(bytes + index * 4, &value, sizeof(value));
    return;
  }
  const std::uint16_t bits =
      type == Float::f16 ? float_to_f16(value) : float_to_bf16(value);
  std::memcpy(bytes + index * 2, &bits, sizeof(bits));
}

} // namespace qwen3_mlx::cpu
