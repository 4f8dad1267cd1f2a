// SPDX-License-Identifier: MIT
// Layouts: ggml's ggml-common.h (block_q4_K ...); each function below lists the
// fields of its block in their order.
#include "formats/ggml_dequantize.h"

#include <array>
#include <bit>
#include <cstring>

#include "base/half.h"

namespace qwen3_mlx {
namespace {

constexpr std::size_t super_block = 256; // elements of a k-quant block

std::uint8_t byte_at(const std::byte* from, std::size_t idx) {
  return static_cast<std::uint8_t>(from[idx]);
}

std::uint16_t u16_at(const std::byte* from) {
  std::uint16_t value;
  std::memcpy(&value, from, sizeof(value));
  return value;
}

std::uint32_t u32_at(const std::byte* from) {
  std::uint32_t value;
  std::memcpy(&value, from, sizeof(value));
  return value;
}

float half_at(const std::byte* from) {
  return f16_to_float(u16_at(from));
}

float signed_at(const std::byte* from, std::size_t idx) {
  return static_cast<float>(static_cast<std::int8_t>(byte_at(from, idx)));
}

/// 32 numbers in 16 bytes: the first half in the low nibbles.
template <typename Write>
void for_each_nibble(const std::byte* from, Write write) {
  for (std::size_t idx = 0; idx < 16; ++idx) {
    const auto pair = byte_at(from, idx);
    write(idx, pair & 0x0F);
    write(idx + 16, pair >> 4);
  }
}

void q4_0(const std::byte* block, float* out) { // f16 d, 16 bytes
  const float d = half_at(block);
  for_each_nibble(block + 2, [&](std::size_t idx, int q) {
    out[idx] = d * static_cast<float>(q - 8);
  });
}

void q4_1(const std::byte* block, float* out) { // f16 d, f16 m, 16 bytes
  const float d = half_at(block);
  const float m = half_at(block + 2);
  for_each_nibble(block + 4, [&](std::size_t idx, int q) {
    out[idx] = d * static_cast<float>(q) + m;
  });
}

/// A fifth bit for each of the 32 numbers, in one word.
int with_fifth_bit(int nibble, std::uint32_t high, std::size_t idx) {
  return nibble | static_cast<int>((high >> idx & 1u) << 4);
}

void q5_0(const std::byte* block, float* out) { // f16 d, u32 high, 16 bytes
  const float d = half_at(block);
  const auto high = u32_at(block + 2);
  for_each_nibble(block + 6, [&](std::size_t idx, int q) {
    out[idx] = d * static_cast<float>(with_fifth_bit(q, high, idx) - 16);
  });
}

void q5_1(const std::byte* block, float* out) { // d, m, u32 high, 16 bytes
  const float d = half_at(block);
  const float m = half_at(block + 2);
  const auto high = u32_at(block + 4);
  for_each_nibble(block + 8, [&](std::size_t idx, int q) {
    out[idx] = d * static_cast<float>(with_fifth_bit(q, high, idx)) + m;
  });
}

void q8_0(const std::byte* block, float* out) { // f16 d, 32 int8
  const float d = half_at(block);
  for (std::size_t idx = 0; idx < 32; ++idx) {
    out[idx] = signed_at(block + 2, idx) * d;
  }
}

void q2_k(const std::byte* block, float* out) {
  // 16 scales (low nibble: scale, high: minimum), 64 bytes of 2 bits, d, dmin
  const auto* numbers = block + 16;
  const float d = half_at(block + 80);
  const float dmin = half_at(block + 82);
  for (std::size_t group = 0; group < 16; ++group) {
    const auto packed = byte_at(block, group);
    const float scale = d * static_cast<float>(packed & 0x0F);
    const float minimum = dmin * static_cast<float>(packed >> 4);
    // Groups of 16 go by halves of 32 bytes, of which each pair of groups
    // takes two bits.
    const auto* from = numbers + group / 8 * 32 + group % 2 * 16;
    const auto shift = group % 8 / 2 * 2;
    for (std::size_t idx = 0; idx < 16; ++idx) {
      const auto q = byte_at(from, idx) >> shift & 3;
      out[group * 16 + idx] = scale * static_cast<float>(q) - minimum;
    }
  }
}

void q3_k(const std::byte* block, float* out) {
  // 32 bytes of high bits, 64 bytes of 2 bits, 12 bytes of 6-bit scales, d
  const auto* numbers = block + 32;
  const auto* scales = block + 96;
  const float d = half_at(block + 108);
  for (std::size_t group = 0; group < 16; ++group) {
    const auto low = byte_at(scales, group % 8) >> (group / 8 * 4) & 0x0F;
    const auto high = byte_at(scales + 8, group % 4) >> (group / 4 * 2) & 3;
    const float scale = d * static_cast<float>((low | high << 4) - 32);
    const auto* from = numbers + group / 8 * 32 + group % 2 * 16;
    const auto* mask = block + group % 2 * 16;
    const auto shift = group % 8 / 2 * 2;
    for (std::size_t idx = 0; idx < 16; ++idx) {
      const auto q = byte_at(from, idx) >> shift & 3;
      // The high bit is stored inverted: set means that nothing is taken off.
      const auto is_high = byte_at(mask, idx) >> (group / 2) & 1;
      out[group * 16 + idx] =
          scale * static_cast<float>(q - (is_high != 0 ? 0 : 4));
    }
  }
}

struct ScaleAndMin {
  float scale;
  float minimum;
};

/// Eight scales and minima of 6 bits each in 12 bytes, as Q4_K and Q5_K have.
ScaleAndMin
k_scale(const std::byte* packed, std::size_t group, float d, float dmin) {
  int scale = 0;
  int minimum = 0;
  if (group < 4) {
    scale = byte_at(packed, group) & 0x3F;
    minimum = byte_at(packed, group + 4) & 0x3F;
  } else {
    const int both = byte_at(packed, group + 4);
    scale = (both & 0x0F) | (byte_at(packed, group - 4) >> 6 << 4);
    minimum = both >> 4 | (byte_at(packed, group) >> 6 << 4);
  }
  return {d * static_cast<float>(scale), dmin * static_cast<float>(minimum)};
}

void q4_k(const std::byte* block, float* out) {
  // d, dmin, 12 bytes of scales, 128 bytes of nibbles
  const float d = half_at(block);
  const float dmin = half_at(block + 2);
  for (std::size_t group = 0; group < 8; ++group) {
    const auto [scale, minimum] = k_scale(block + 4, group, d, dmin);
    const auto* from = block + 16 + group / 2 * 32;
    for (std::size_t idx = 0; idx < 32; ++idx) {
      const auto q = byte_at(from, idx) >> (group % 2 * 4) & 0x0F;
      out[group * 32 + idx] = scale * static_cast<float>(q) - minimum;
    }
  }
}

void q5_k(const std::byte* block, float* out) {
  // d, dmin, 12 bytes of scales, 32 bytes of high bits, 128 bytes of nibbles
  const float d = half_at(block);
  const float dmin = half_at(block + 2);
  for (std::size_t group = 0; group < 8; ++group) {
    const auto [scale, minimum] = k_scale(block + 4, group, d, dmin);
    const auto* from = block + 48 + group / 2 * 32;
    for (std::size_t idx = 0; idx < 32; ++idx) {
      const auto low = byte_at(from, idx) >> (group % 2 * 4) & 0x0F;
      const auto high = byte_at(block + 16, idx) >> group & 1;
      out[group * 32 + idx] =
          scale * static_cast<float>(low | high << 4) - minimum;
    }
  }
}

void q6_k(const std::byte* block, float* out) {
  // 128 bytes of nibbles, 64 bytes of 2 bits, 16 int8 scales, d
  const float d = half_at(block + 208);
  for (std::size_t group = 0; group < 16; ++group) {
    const float scale = d * signed_at(block + 192, group);
    const auto part = group / 2; // of 32 numbers
    const auto at = group % 2 * 16;
    const auto* low = block + part / 4 * 64 + part % 2 * 32 + at;
    const auto* high = block + 128 + part / 4 * 32 + at;
    for (std::size_t idx = 0; idx < 16; ++idx) {
      const auto nibble = byte_at(low, idx) >> (part % 4 / 2 * 4) & 0x0F;
      const auto bits = byte_at(high, idx) >> (part % 4 * 2) & 3;
      out[group * 16 + idx] =
          scale * static_cast<float>((nibble | bits << 4) - 32);
    }
  }
}

void q8_k(const std::byte* block, float* out) { // f32 d, 256 int8, sums
  float d;
  std::memcpy(&d, block, sizeof(d));
  for (std::size_t idx = 0; idx < super_block; ++idx) {
    out[idx] = d * signed_at(block + 4, idx);
  }
}

constexpr std::array<float, 16> iq4_values =
    {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

void iq4_nl(const std::byte* block, float* out) { // f16 d, 16 bytes
  const float d = half_at(block);
  for_each_nibble(block + 2, [&](std::size_t idx, int q) {
    out[idx] = d * iq4_values[static_cast<std::size_t>(q)];
  });
}

void iq4_xs(const std::byte* block, float* out) {
  // f16 d, u16 high bits of scales, 4 bytes of low ones, 128 bytes of nibbles
  const float d = half_at(block);
  const auto high = u16_at(block + 2);
  for (std::size_t group = 0; group < 8; ++group) {
    const int low = byte_at(block + 4, group / 2) >> (group % 2 * 4) & 0x0F;
    const int scale = (low | (high >> (2 * group) & 3) << 4) - 32;
    const float dl = d * static_cast<float>(scale);
    for_each_nibble(block + 8 + group * 16, [&](std::size_t idx, int q) {
      out[group * 32 + idx] = dl * iq4_values[static_cast<std::size_t>(q)];
    });
  }
}

void mxfp4(const std::byte* block, float* out) { // E8M0 scale, 16 bytes
  // Half of the scale times twice the number: 2^128, the largest scale, is
  // more than a float32 holds.
  const std::uint32_t e = byte_at(block, 0);
  const float half =
      std::bit_cast<float>(e < 2 ? 0x00200000u << e : (e - 1) << 23);
  for_each_nibble(block + 1, [&](std::size_t idx, int q) {
    // ggml's table of integers has one zero: no number is -0.
    out[idx] = q == 8 ? 0.0f : half * (2.0f * fp4_values[q]);
  });
}

void f32(const std::byte* from, float* out) {
  std::memcpy(out, from, sizeof(float));
}

void f16(const std::byte* from, float* out) {
  *out = half_at(from);
}

void bf16(const std::byte* from, float* out) {
  *out = bf16_to_float(u16_at(from));
}

using Dequantize = void (*)(const std::byte*, float*);

Dequantize function_of(GgmlType type) {
  switch (type) {
  case GgmlType::f32:
    return f32;
  case GgmlType::f16:
    return f16;
  case GgmlType::bf16:
    return bf16;
  case GgmlType::q4_0:
    return q4_0;
  case GgmlType::q4_1:
    return q4_1;
  case GgmlType::q5_0:
    return q5_0;
  case GgmlType::q5_1:
    return q5_1;
  case GgmlType::q8_0:
    return q8_0;
  case GgmlType::q2_k:
    return q2_k;
  case GgmlType::q3_k:
    return q3_k;
  case GgmlType::q4_k:
    return q4_k;
  case GgmlType::q5_k:
    return q5_k;
  case GgmlType::q6_k:
    return q6_k;
  case GgmlType::q8_k:
    return q8_k;
  case GgmlType::iq4_nl:
    return iq4_nl;
  case GgmlType::iq4_xs:
    return iq4_xs;
  case GgmlType::mxfp4:
    return mxfp4;
  default:
    return nullptr;
  }
}

} // namespace

bool can_dequantize(GgmlType type) {
  return function_of(type) != nullptr;
}

void dequantize_ggml(
    GgmlType type,
    const std::byte* from,
    std::size_t n_elements,
    float* out) {
  const auto dequantize = function_of(type);
  const auto block = ggml_block(type);
  for (std::size_t done = 0; done < n_elements; done += block.n_elements) {
    dequantize(from, out + done);
    from += block.n_bytes;
  }
}

} // namespace qwen3_mlx
