// SPDX-License-Identifier: MIT
// The formulas are those of MLX's CPU backend (mlx/backend/cpu/quantized.cpp,
// quantize) and of its definition of the fp modes (mlx/ops.cpp, fp_quantize);
// what is rounded to the array's own type there is rounded here.
#include "convert/quantizer.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "base/half.h"

namespace qwen3_mlx {
namespace {

constexpr std::size_t max_group = 128;
// Known when compiled, so that loops over a group are vector code throughout.
constexpr std::size_t mx_group = 32;
constexpr std::size_t nvfp4_group = 16;
constexpr std::size_t most_nvfp4_groups = 16; // a vector of bytes

std::uint16_t narrow_bits(DType dtype, float value) {
  return dtype == DType::f16 ? float_to_f16(value) : float_to_bf16(value);
}

float widen_bits(DType dtype, std::uint16_t bits) {
  return dtype == DType::f16 ? f16_to_float(bits) : bf16_to_float(bits);
}

void store(DType dtype, float value, std::byte* out) {
  if (dtype == DType::f32) {
    std::memcpy(out, &value, sizeof(value));
    return;
  }
  const auto bits = narrow_bits(dtype, value);
  std::memcpy(out, &bits, sizeof(bits));
}

/// The nearest integer, ties to even, of a number in [0, 2^22): what is below
/// the last bit of the sum is rounded away. Becomes vector code everywhere,
/// which std::rint does not.
float nearest(float value) {
  constexpr float shift = 0x1.8p23f;
  return (value + shift) - shift;
}

/// Saturating, ties to even, as MLX's ToFP8. Free of branches, so that loops
/// over it become vectors.
std::uint32_t to_fp8(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t sign = bits >> 24 & 0x80u;
  // 448 is the largest; also what NaN becomes. Signed numbers have vector
  // comparisons.
  const auto given = static_cast<std::int32_t>(bits & 0x7FFFFFFFu);
  const std::int32_t magnitude = given < 0x43E00000 ? given : 0x43E00000;
  const std::int32_t rounded =
      (magnitude - (120 << 23) + 0x7FFFF + (magnitude >> 20 & 1)) >> 20;
  // Below 2^-6: multiples of 2^-9.
  const float sum = std::bit_cast<float>(magnitude) + 0x1p14f;
  const std::int32_t small = std::bit_cast<std::int32_t>(sum) - 0x46800000;
  const std::int32_t is_small = (magnitude - 0x3C800000) >> 31; // all bits
  const std::int32_t code = (small & is_small) | (rounded & ~is_small);
  return sign | static_cast<std::uint32_t>(code);
}

/// Apart from what makes the codes: GCC makes good vectors of either loop, not
/// of both in one.
template <std::size_t count>
void put_low_bytes(
    const std::array<std::uint32_t, count>& codes,
    std::uint8_t* out) {
  for (std::size_t idx = 0; idx < count; ++idx) {
    out[idx] = static_cast<std::uint8_t>(codes[idx]);
  }
}

template <std::size_t count>
void put_fp8(const float* values, std::uint8_t* out) {
  std::array<std::uint32_t, count> codes;
  for (std::size_t idx = 0; idx < count; ++idx) {
    codes[idx] = to_fp8(values[idx]);
  }
  put_low_bytes<count>(codes, out);
}

/// The nearest of FP4's 16 numbers, the first of several; differences are
/// rounded by `round` as MLX rounds them.
template <typename Round>
std::uint8_t nearest_fp4_rounded(float value, Round round) {
  std::uint8_t best = 0;
  float least = std::fabs(round(value - fp4_values[0]));
  for (std::uint8_t idx = 1; idx < 16; ++idx) {
    const float distance = std::fabs(round(value - fp4_values[idx]));
    if (distance < least) {
      least = distance;
      best = idx;
    }
  }
  return best;
}

/// The least magnitudes that become each of FP4's magnitudes but zero.
using Fp4Bounds = std::array<float, 7>;

/// Where differences are float32: those to the two neighbours are exact, so the
/// place among the midpoints decides, and a midpoint goes to the smaller
/// magnitude, which comes first. The least float32 above each.
constexpr Fp4Bounds exact_fp4_bounds{
    0x1.000002p-2f,
    0x1.800002p-1f,
    0x1.400002p+0f,
    0x1.c00002p+0f,
    0x1.400002p+1f,
    0x1.c00002p+1f,
    0x1.400002p+2f};

/// Where numbers and differences are of a 16-bit type. Up to 8, the distances
/// to FP4's numbers rise on one side and fall on the other, rounded or not, so
/// that what numbers become rises with them; negative ones mirror it.
Fp4Bounds fp4_bounds(DType dtype) {
  Fp4Bounds bounds{};
  std::size_t known = 0;
  for (std::uint16_t bits = 0; known < bounds.size(); ++bits) {
    const float value = widen_bits(dtype, bits);
    const auto code = nearest_fp4_rounded(value, [&](float difference) {
      round_to(dtype, {&difference, 1});
      return difference;
    });
    while (known < code) {
      bounds[known++] = value;
    }
  }
  return bounds;
}

/// The nearest of FP4's numbers; zero is never negative. `round`: see above,
/// for numbers of 8 and more, whose distances to several are the same rounded.
template <std::size_t count, typename Round>
void nearest_fp4(
    const float* values,
    const Fp4Bounds& bounds,
    std::uint8_t* out,
    Round round) {
  std::array<std::int32_t, std::tuple_size_v<Fp4Bounds>> limits;
  for (std::size_t idx = 0; idx < limits.size(); ++idx) {
    limits[idx] = std::bit_cast<std::int32_t>(bounds[idx]) - 1;
  }
  std::array<std::uint32_t, count> codes;
  constexpr auto far = std::bit_cast<std::int32_t>(8.0f);
  std::int32_t largest = 0;
  for (std::size_t idx = 0; idx < count; ++idx) {
    // Integers in the order of magnitudes. Sums of comparisons, not a loop: so
    // it becomes vector code.
    const auto bits = std::bit_cast<std::int32_t>(values[idx]);
    const auto magnitude = bits & 0x7FFFFFFF;
    const std::int32_t code = (magnitude > limits[0]) +
        (magnitude > limits[1]) + (magnitude > limits[2]) +
        (magnitude > limits[3]) + (magnitude > limits[4]) +
        (magnitude > limits[5]) + (magnitude > limits[6]);
    const std::int32_t sign = (bits >> 28) & 8 & -(magnitude > limits[0]);
    codes[idx] = static_cast<std::uint32_t>(code | sign);
    largest = std::max(largest, magnitude);
  }
  put_low_bytes<count>(codes, out);
  if (largest < far) {
    return;
  }
  for (std::size_t idx = 0; idx < count; ++idx) {
    if (!(std::fabs(values[idx]) < 8)) {
      out[idx] = nearest_fp4_rounded(values[idx], round);
    }
  }
}

/// The least integer whose power of two is not below `scale`, as the float32
/// std::log2 gives it: numbers of 16 bits lie too far from powers of two to be
/// rounded to them.
float exponent_above(DType dtype, float scale) {
  constexpr std::int32_t mantissa = 0x7FFFFF;
  const auto bits = std::bit_cast<std::int32_t>(scale);
  if (dtype == DType::f32 || bits <= mantissa) {
    return scale == 0 ? 0.0f : std::ceil(std::log2(scale));
  }
  return static_cast<float>((bits >> 23) - 127 + ((bits & mantissa) != 0));
}

/// std::exp2 of an integer.
float power_of_two(float exponent) {
  const auto biased = static_cast<std::int32_t>(exponent) + 127;
  return biased > 0 && biased < 255 ? std::bit_cast<float>(biased << 23)
                                    : std::exp2(exponent);
}

/// Takes pairs as numbers of 16 bits (little-endian, as all that is packed
/// here), which vectors shift and narrow.
template <std::size_t count>
void pack_nibbles(const std::uint8_t* numbers, std::byte* out) {
  for (std::size_t idx = 0; idx < count / 2; ++idx) {
    std::uint16_t pair;
    std::memcpy(&pair, numbers + 2 * idx, sizeof(pair));
    out[idx] = static_cast<std::byte>(pair | pair >> 4);
  }
}

/// largest_magnitude() of a group.
template <std::size_t count>
float largest_of(const float* values) {
  // As integers, which have the same order and a maximum in vectors.
  std::int32_t largest = 0;
  for (std::size_t idx = 0; idx < count; ++idx) {
    largest = std::max(
        largest, std::bit_cast<std::int32_t>(values[idx]) & 0x7FFFFFFF);
  }
  return std::bit_cast<float>(largest);
}

} // namespace

float largest_magnitude(const float* values, std::size_t count) {
  // As integers, which have the same order and a maximum in vectors.
  std::int32_t largest = 0;
  for (std::size_t idx = 0; idx < count; ++idx) {
    largest = std::max(
        largest, std::bit_cast<std::int32_t>(values[idx]) & 0x7FFFFFFF);
  }
  return std::bit_cast<float>(largest);
}

void pack_numbers(
    const std::uint8_t* numbers,
    std::size_t count,
    int bits,
    std::byte* out) {
  if (bits == 8) {
    std::memcpy(out, numbers, count);
    return;
  }
  if (bits == 4) {
    for (std::size_t idx = 0; idx < count; idx += 8) {
      pack_nibbles<8>(numbers + idx, out + idx / 2);
    }
    return;
  }
  // Eight numbers are `bits` whole bytes.
  for (std::size_t idx = 0; idx < count; idx += 8) {
    std::uint64_t word = 0;
    for (std::size_t at = 0; at < 8; ++at) {
      word |= std::uint64_t{numbers[idx + at]}
          << (at * static_cast<std::size_t>(bits));
    }
    std::memcpy(out, &word, static_cast<std::size_t>(bits));
    out += bits;
  }
}

void narrow(DType dtype, std::span<const float> from, std::byte* out) {
  if (dtype == DType::f32) {
    std::memcpy(out, from.data(), from.size_bytes());
    return;
  }
  const bool is_f16 = dtype == DType::f16;
  for (std::size_t idx = 0; idx < from.size(); ++idx) {
    const auto bits =
        is_f16 ? float_to_f16(from[idx]) : float_to_bf16(from[idx]);
    std::memcpy(out + idx * sizeof(bits), &bits, sizeof(bits));
  }
}

void round_to(DType dtype, std::span<float> values) {
  if (dtype == DType::bf16) {
    for (float& value : values) {
      value = bf16_to_float(float_to_bf16(value));
    }
  } else if (dtype == DType::f16) {
    for (float& value : values) {
      value = f16_to_float(float_to_f16(value));
    }
  }
}

Quantizer::Quantizer(QuantFormat format, DType dtype)
    : format_(format), dtype_(dtype),
      group_size_(static_cast<std::size_t>(format.group_size)),
      group_bytes_(group_size_ * static_cast<std::size_t>(format.bits) / 8) {
  if (format.mode == QuantMode::mxfp4) {
    fp4_bounds_ = dtype == DType::f32 ? exact_fp4_bounds : fp4_bounds(dtype);
  }
}

inline float Quantizer::rounded(float value) const {
  return dtype_ == DType::f32 ? value
                              : widen_bits(dtype_, narrow_bits(dtype_, value));
}

/// round_to(), where bfloat16, which most checkpoints hold, becomes vector
/// code.
template <std::size_t count>
void Quantizer::round_finite(std::array<float, count>& values) const {
  if (dtype_ != DType::bf16) {
    round_to(dtype_, values);
    return;
  }
  for (float& value : values) {
    const auto bits = std::bit_cast<std::uint32_t>(value);
    value = std::bit_cast<float>(
        (bits + 0x7FFFu + (bits >> 16 & 1u)) & 0xFFFF0000u);
  }
}

void Quantizer::put_fp4(const float* values, std::uint8_t* out) const {
  nearest_fp4<mx_group>(values, fp4_bounds_, out, [&](float difference) {
    return rounded(difference);
  });
}

void Quantizer::quantize_row(std::span<const float> row, PackedRow out) const {
  const auto scale_bytes = format_.mode == QuantMode::affine
      ? static_cast<std::size_t>(dtype_bits(dtype_) / 8)
      : 1;
  if (format_.mode == QuantMode::nvfp4) {
    constexpr auto block = nvfp4_group * most_nvfp4_groups;
    for (std::size_t at = 0; at < row.size(); at += block) {
      const auto count = std::min(block, row.size() - at) / nvfp4_group;
      quantize_nvfp4_groups(row.data() + at, count, out);
      out.packed += count * group_bytes_;
      out.scales += count;
    }
    return;
  }
  for (std::size_t at = 0; at < row.size(); at += group_size_) {
    const auto* group = row.data() + at;
    if (format_.mode == QuantMode::affine) {
      quantize_affine(group, out);
      out.biases += scale_bytes;
    } else {
      quantize_mx(group, out);
    }
    out.packed += group_bytes_;
    out.scales += scale_bytes;
  }
}

void Quantizer::quantize_affine(const float* group, PackedRow out) const {
  const auto last = static_cast<float>((1 << format_.bits) - 1);
  float low = group[0];
  float high = group[0];
  for (std::size_t idx = 1; idx < group_size_; ++idx) {
    low = std::min(low, group[idx]);
    high = std::max(high, group[idx]);
  }
  // The end that is farther from zero is met exactly, and so is zero.
  const bool low_is_edge = std::fabs(low) > std::fabs(high);
  const float step = std::max((high - low) / last, 1e-7f);
  float scale = low_is_edge ? step : -step;
  const float edge = low_is_edge ? low : high;
  const float steps_to_edge = std::rint(edge / scale);
  float bias = 0;
  if (steps_to_edge != 0) {
    scale = edge / steps_to_edge;
    bias = edge;
  }
  std::array<std::uint8_t, max_group> numbers;
  for (std::size_t idx = 0; idx < group_size_; ++idx) {
    // Clamped first: the bounds are integers, so rounding commutes with that.
    const float steps = (group[idx] - bias) / scale;
    const float clamped = std::min(std::max(steps, 0.0f), last);
    numbers[idx] =
        static_cast<std::uint8_t>(static_cast<std::int32_t>(nearest(clamped)));
  }
  pack_numbers(numbers.data(), group_size_, format_.bits, out.packed);
  store(dtype_, scale, out.scales);
  store(dtype_, bias, out.biases);
}

void Quantizer::quantize_mx(const float* group, PackedRow out) const {
  const bool is_fp4 = format_.mode == QuantMode::mxfp4;
  const float largest = largest_of<mx_group>(group);
  const float scale = rounded(largest / (is_fp4 ? 6.0f : 448.0f));
  const float exponent = exponent_above(dtype_, scale);
  std::array<float, mx_group> quotients;
  // A power of two that every type holds, and so its reciprocal: products are
  // quotients. Of 16-bit numbers they need no rounding but where they are so
  // small that they become zero all the same.
  constexpr float most_exponent = 14;
  const bool is_plain = std::fabs(exponent) <= most_exponent;
  if (is_plain) {
    const float reciprocal = power_of_two(-exponent);
    for (std::size_t idx = 0; idx < mx_group; ++idx) {
      quotients[idx] = group[idx] * reciprocal;
    }
  } else {
    const float power = rounded(power_of_two(exponent));
    for (std::size_t idx = 0; idx < mx_group; ++idx) {
      quotients[idx] = group[idx] / power;
    }
    round_to(dtype_, quotients);
  }
  std::array<std::uint8_t, mx_group> numbers;
  if (is_fp4) {
    put_fp4(quotients.data(), numbers.data());
  } else {
    put_fp8<mx_group>(quotients.data(), numbers.data());
  }
  if (is_fp4) {
    pack_nibbles<mx_group>(numbers.data(), out.packed);
  } else {
    std::memcpy(out.packed, numbers.data(), mx_group);
  }
  *out.scales = static_cast<std::byte>(static_cast<int>(exponent) + 127);
}

void Quantizer::quantize_nvfp4_groups(
    const float* groups,
    std::size_t n_groups,
    PackedRow out) const {
  // Scales of several groups at once, in vectors.
  std::array<float, most_nvfp4_groups> sixths{};
  for (std::size_t idx = 0; idx < n_groups; ++idx) {
    sixths[idx] = largest_of<nvfp4_group>(groups + idx * nvfp4_group);
  }
  for (float& value : sixths) {
    value /= 6.0f;
  }
  round_finite(sixths);
  std::array<std::uint8_t, most_nvfp4_groups> scales;
  put_fp8<most_nvfp4_groups>(sixths.data(), scales.data());
  for (std::size_t idx = 0; idx < n_groups; ++idx) {
    quantize_nvfp4(groups + idx * nvfp4_group, scales[idx], out.packed);
    out.packed += group_bytes_;
  }
  std::memcpy(out.scales, scales.data(), n_groups);
}

void Quantizer::quantize_nvfp4(
    const float* group,
    std::uint8_t scale,
    std::byte* packed) const {
  const float divisor = f8_e4m3_to_float(scale);
  std::array<float, nvfp4_group> quotients{};
  // A scale that rounds to zero leaves no number but zero.
  if (divisor != 0) {
    for (std::size_t idx = 0; idx < nvfp4_group; ++idx) {
      quotients[idx] = group[idx] / divisor;
    }
    round_finite(quotients);
  }
  std::array<std::uint8_t, nvfp4_group> numbers;
  nearest_fp4<nvfp4_group>(
      quotients.data(), exact_fp4_bounds, numbers.data(), [](float exact) {
        return exact;
      });
  pack_nibbles<nvfp4_group>(numbers.data(), packed);
}

} // namespace qwen3_mlx
