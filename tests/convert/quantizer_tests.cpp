// SPDX-License-Identifier: MIT
// Our quantizer against mx::quantize on the CPU, byte for byte.
#include "convert/quantizer.h"

#include <cmath>
#include <cstring>
#include <random>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <mlx/mlx.h>

#include "base/half.h"
#include "qwen3_mlx/quantization.h"

namespace qwen3_mlx {
namespace {

struct Case {
  QuantFormat format;
  DType dtype;
};

mx::Dtype mlx_dtype(DType dtype) {
  return dtype == DType::f32 ? mx::float32
      : dtype == DType::f16  ? mx::float16
                             : mx::bfloat16;
}

/// Groups of 16 of very different size: zeros, one number, ties, tiny, large.
std::vector<float> hard_values(std::size_t count, DType dtype) {
  std::mt19937 random(7);
  std::normal_distribution<float> normal;
  std::uniform_real_distribution<float> exponent(-6.0f, 2.0f);
  std::vector<float> values(count);
  for (std::size_t at = 0; at < count; at += 16) {
    const auto kind = random() % 24;
    const float size = std::pow(10.0f, exponent(random));
    for (std::size_t idx = at; idx < at + 16; ++idx) {
      const float value = normal(random);
      values[idx] = kind == 0 ? 0.0f
          : kind == 1         ? 0.25f
          : kind == 2         ? -1.5f
          : kind == 3
          ? static_cast<float>(static_cast<int>(random() % 25) - 12) / 4
          : kind == 4 ? value * size * 1e-7f
          : kind == 5 ? std::fabs(value) * size
          : kind == 6 ? -std::fabs(value) * size
                      : value * size;
    }
  }
  round_to(dtype, values);
  return values;
}

std::vector<std::byte> bytes_of(mx::array array) {
  array = mx::contiguous(array, false, mx::Device::cpu);
  array.eval();
  std::vector<std::byte> bytes(array.nbytes());
  std::memcpy(bytes.data(), array.data<std::byte>(), bytes.size());
  return bytes;
}

/// Groups that hold each number of a 16-bit type up to `largest`, of either
/// sign, beside `largest` itself, so that all have the same scale.
std::vector<float>
all_values(DType dtype, float largest, std::size_t group_size) {
  std::vector<float> values;
  for (std::uint32_t bits = 0; bits < 1u << 16; ++bits) {
    const auto half = static_cast<std::uint16_t>(bits);
    const float value =
        dtype == DType::f16 ? f16_to_float(half) : bf16_to_float(half);
    if (!(std::fabs(value) <= largest)) {
      continue;
    }
    if (values.size() % group_size == 0) {
      values.push_back(largest);
    }
    values.push_back(value);
  }
  while (values.size() % (128 * 16) != 0) {
    values.push_back(0);
  }
  return values;
}

void expect_same_as_mlx(
    const QuantFormat& format,
    DType dtype,
    const std::vector<float>& values,
    int columns) {
  const int rows = static_cast<int>(values.size()) / columns;
  const mx::array plain(values.data(), {rows, columns}, mx::float32);
  const auto typed = mx::astype(plain, mlx_dtype(dtype), mx::Device::cpu);
  const auto expected = mx::quantize(
      typed,
      format.group_size,
      format.bits,
      to_string(format.mode),
      std::nullopt,
      mx::Device::cpu);

  std::vector<std::vector<std::byte>> found;
  for (const auto& part : expected) {
    found.emplace_back(part.nbytes());
  }
  const Quantizer quantizer(format, dtype);
  const auto n_rows = static_cast<std::size_t>(rows);
  const auto n_columns = static_cast<std::size_t>(columns);
  for (std::size_t row = 0; row < n_rows; ++row) {
    const auto at = [&](std::size_t idx) {
      return idx < found.size()
          ? found[idx].data() + row * found[idx].size() / n_rows
          : nullptr;
    };
    quantizer.quantize_row(
        std::span(values).subspan(row * n_columns, n_columns),
        {at(0), at(1), at(2)});
  }
  for (std::size_t idx = 0; idx < expected.size(); ++idx) {
    const auto bytes = bytes_of(expected[idx]);
    std::size_t differ = 0;
    for (std::size_t pos = 0; pos < bytes.size(); ++pos) {
      differ += bytes[pos] != found[idx][pos] ? 1 : 0;
    }
    EXPECT_EQ(differ, 0u) << "part " << idx << " of " << bytes.size();
  }
}

class QuantizerIsMlx : public ::testing::TestWithParam<Case> {};

TEST_P(QuantizerIsMlx, ToTheBit) {
  const auto [format, dtype] = GetParam();
  expect_same_as_mlx(format, dtype, hard_values(96 * 384, dtype), 384);
}

// These know where in a 16-bit type one of their numbers ends and the next
// begins.
class FpQuantizerIsMlx : public ::testing::TestWithParam<Case> {};

TEST_P(FpQuantizerIsMlx, ForEveryNumberOfSixteenBits) {
  const auto [format, dtype] = GetParam();
  const auto group_size = static_cast<std::size_t>(format.group_size);
  const float top = format.mode == QuantMode::mxfp8 ? 448.0f : 6.0f;
  // Scales near one, far below and far above.
  for (const float size : {1.0f, 0.75f, 0x1p-9f, 0x1p-17f, 0x1p6f}) {
    const auto values = all_values(dtype, top * size, group_size);
    expect_same_as_mlx(format, dtype, values, 128);
  }
}

std::vector<Case> all_cases() {
  std::vector<Case> cases;
  for (const auto dtype : {DType::f32, DType::f16, DType::bf16}) {
    for (const int bits : {2, 3, 4, 5, 6, 8}) {
      for (const int group_size : {32, 64, 128}) {
        cases.push_back({{QuantMode::affine, bits, group_size}, dtype});
      }
    }
    cases.push_back({{QuantMode::mxfp4, 4, 32}, dtype});
    cases.push_back({{QuantMode::mxfp8, 8, 32}, dtype});
    cases.push_back({{QuantMode::nvfp4, 4, 16}, dtype});
  }
  return cases;
}

std::vector<Case> fp_cases() {
  auto cases = all_cases();
  std::erase_if(cases, [](const Case& each) {
    return each.format.mode == QuantMode::affine || each.dtype == DType::f32;
  });
  return cases;
}

std::string name_of_case(const ::testing::TestParamInfo<Case>& tested) {
  const auto& format = tested.param.format;
  return std::string(to_string(format.mode)) + "_" +
      std::to_string(format.bits) + "_g" + std::to_string(format.group_size) +
      "_" + std::string(dtype_name(tested.param.dtype));
}

INSTANTIATE_TEST_SUITE_P(
    Formats,
    QuantizerIsMlx,
    ::testing::ValuesIn(all_cases()),
    name_of_case);

INSTANTIATE_TEST_SUITE_P(
    Formats,
    FpQuantizerIsMlx,
    ::testing::ValuesIn(fp_cases()),
    name_of_case);

TEST(Half, EveryValueOfFloat16AndBfloat16ComesBack) {
  for (std::uint32_t bits = 0; bits < 1u << 16; ++bits) {
    const auto half = static_cast<std::uint16_t>(bits);
    if ((bits & 0x7C00u) != 0x7C00u || (bits & 0x3FFu) == 0) {
      EXPECT_EQ(float_to_f16(f16_to_float(half)), half);
    } else {
      EXPECT_TRUE(std::isnan(f16_to_float(half)));
    }
    if ((bits & 0x7F80u) != 0x7F80u || (bits & 0x7Fu) == 0) {
      EXPECT_EQ(float_to_bf16(bf16_to_float(half)), half);
    } else {
      EXPECT_TRUE(std::isnan(bf16_to_float(half)));
    }
  }
}

TEST(Half, RoundsAsMlxDoes) {
  std::mt19937 random(3);
  for (int n = 0; n < 200'000; ++n) {
    const auto bits = static_cast<std::uint32_t>(random());
    const auto value = std::bit_cast<float>(bits);
    if (std::isnan(value)) {
      continue;
    }
    const mx::float16_t half(value);
    std::uint16_t expected;
    std::memcpy(&expected, &half, sizeof(expected));
    ASSERT_EQ(float_to_f16(value), expected) << value;
    const mx::bfloat16_t brain(value);
    std::memcpy(&expected, &brain, sizeof(expected));
    ASSERT_EQ(float_to_bf16(value), expected) << value;
  }
}

} // namespace
} // namespace qwen3_mlx
