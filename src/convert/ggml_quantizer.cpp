// SPDX-License-Identifier: MIT
// Compiled without fused products, which would change bits where machines have
// them.
#include "convert/ggml_quantizer.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "convert/quantizer.h"

namespace qwen3_mlx {
namespace {

constexpr std::size_t block_size = 32;
constexpr std::size_t half_size = block_size / 2;

std::byte* put_half(std::byte* out, float value) {
  narrow(DType::f16, {&value, 1}, out);
  return out + 2;
}

float inverse(float scale) {
  return scale == 0 ? 0.0f : 1.0f / scale;
}

/// Nibbles: elements 0 to 15 in the low halves, 16 to 31 in the high ones.
template <class Quant>
void put_nibbles(const float* block, std::byte* out, const Quant& quant) {
  for (std::size_t idx = 0; idx < half_size; ++idx) {
    out[idx] = static_cast<std::byte>(
        quant(block[idx]) | quant(block[half_size + idx]) << 4);
  }
}

/// Truncated, and at most 15.
unsigned int nibble(float value) {
  return static_cast<unsigned int>(std::clamp(static_cast<int>(value), 0, 15));
}

/// As std::round, which is no vector code: halves away from zero. Exact, for
/// the difference is.
std::int32_t round_away(float value) {
  const auto whole = static_cast<std::int32_t>(value);
  const float rest = value - static_cast<float>(whole);
  return whole + (rest >= 0.5f) - (rest <= -0.5f);
}

/// scale * (q - 8), where the largest magnitude gets q = 0.
std::byte* put_q4_0(const float* block, std::byte* out) {
  const float largest = largest_magnitude(block, block_size);
  const float extreme = largest == 0
      ? 0.0f
      : *std::find_if(block, block + block_size, [&](float x) {
          return std::fabs(x) == largest;
        });
  const float scale = extreme / -8.0f;
  const float factor = inverse(scale);
  out = put_half(out, scale);
  put_nibbles(block, out, [&](float x) { return nibble(x * factor + 8.5f); });
  return out + half_size;
}

/// scale * q + minimum.
std::byte* put_q4_1(const float* block, std::byte* out) {
  const auto [low, high] = std::minmax_element(block, block + block_size);
  const float minimum = *low;
  const float scale = (*high - minimum) / 15.0f;
  const float factor = inverse(scale);
  out = put_half(out, scale);
  out = put_half(out, minimum);
  put_nibbles(block, out, [&](float x) {
    return nibble((x - minimum) * factor + 0.5f);
  });
  return out + half_size;
}

/// scale * q, q from -127 to 127.
std::byte* put_q8_0(const float* block, std::byte* out) {
  const float scale = largest_magnitude(block, block_size) / 127.0f;
  const float factor = inverse(scale);
  out = put_half(out, scale);
  for (std::size_t idx = 0; idx < block_size; ++idx) {
    out[idx] = static_cast<std::byte>(round_away(block[idx] * factor));
  }
  return out + block_size;
}

} // namespace

void quantize_ggml_row(
    GgmlType type,
    std::span<const float> row,
    std::byte* out) {
  if (type == GgmlType::f32) {
    std::memcpy(out, row.data(), row.size_bytes());
    return;
  }
  if (type == GgmlType::f16 || type == GgmlType::bf16) {
    narrow(type == GgmlType::f16 ? DType::f16 : DType::bf16, row, out);
    return;
  }
  for (std::size_t at = 0; at < row.size(); at += block_size) {
    const float* block = row.data() + at;
    out = type == GgmlType::q4_0 ? put_q4_0(block, out)
        : type == GgmlType::q4_1 ? put_q4_1(block, out)
                                 : put_q8_0(block, out);
  }
}

} // namespace qwen3_mlx
