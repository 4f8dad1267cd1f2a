// SPDX-License-Identifier: MIT
#include "convert/calibrated_quantizer.h"

#include <gtest/gtest.h>

#include <random>

#include "mlx/ops.h"
#include "mlx/transforms.h"

namespace qwen3_mlx {
namespace {

constexpr int n_columns = 128;
constexpr int group_size = 64;

/// Where column `column` of row `row` lies among rows of `width`.
std::size_t place(int row, int width, int column = 0) {
  return static_cast<std::size_t>(row) * static_cast<std::size_t>(width) +
      static_cast<std::size_t>(column);
}

/// Inputs that hang together, of which some are large: x = A z.
mx::array make_inputs(int count) {
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  constexpr int n_sources = 40;
  std::vector<float> mix(n_sources * n_columns);
  for (auto& value : mix) {
    value = normal(random);
  }
  std::vector<float> inputs(place(count, n_columns));
  for (int row = 0; row < count; ++row) {
    std::vector<float> sources(n_sources);
    for (auto& value : sources) {
      value = normal(random);
    }
    for (int column = 0; column < n_columns; ++column) {
      float sum = 0.1f * normal(random);
      for (int source = 0; source < n_sources; ++source) {
        sum += sources[static_cast<std::size_t>(source)] *
            mix[place(source, n_columns, column)];
      }
      inputs[place(row, n_columns, column)] = column % 17 == 0 ? 8 * sum : sum;
    }
  }
  return mx::array(inputs.begin(), {count, n_columns}, mx::float32);
}

std::vector<float> make_weights(int n_rows) {
  std::mt19937 random(5);
  std::normal_distribution<float> normal;
  std::vector<float> weights(place(n_rows, n_columns));
  for (auto& value : weights) {
    value = normal(random);
  }
  return weights;
}

mx::array as_matrix(const std::vector<float>& values) {
  return mx::array(
      values.begin(),
      {static_cast<int>(values.size()) / n_columns, n_columns},
      mx::float32);
}

/// All rows packed by `quantize_row`, dequantized by MLX.
template <class Pack>
mx::array
round_trip(std::vector<float> weights, int bits, const Pack& quantize_row) {
  const int n_rows = static_cast<int>(weights.size()) / n_columns;
  const int row_bytes = n_columns * bits / 8;
  constexpr int n_groups = n_columns / group_size;
  std::vector<std::uint32_t> packed(place(n_rows, row_bytes / 4));
  std::vector<float> scales(place(n_rows, n_groups));
  auto biases = scales;
  for (int row = 0; row < n_rows; ++row) {
    quantize_row(
        std::span(weights).subspan(place(row, n_columns), n_columns),
        PackedRow{
            reinterpret_cast<std::byte*>(packed.data()) + row * row_bytes,
            reinterpret_cast<std::byte*>(&scales[place(row, n_groups)]),
            reinterpret_cast<std::byte*>(&biases[place(row, n_groups)])});
  }
  return mx::dequantize(
      mx::array(packed.begin(), {n_rows, row_bytes / 4}, mx::uint32),
      mx::array(scales.begin(), {n_rows, n_groups}, mx::float32),
      mx::array(biases.begin(), {n_rows, n_groups}, mx::float32),
      group_size,
      bits);
}

double
output_error(const mx::array& inputs, const mx::array& a, const mx::array& b) {
  return mx::mean(
             mx::square(mx::matmul(inputs, mx::transpose(mx::subtract(a, b)))))
      .item<float>();
}

class CalibratedQuantizerTest : public ::testing::TestWithParam<int> {};

TEST_P(CalibratedQuantizerTest, OutputsAreNearerThanNumbersRoundedToNearest) {
  mx::set_default_device(mx::Device::cpu);
  const int bits = GetParam();
  const QuantFormat format{QuantMode::affine, bits, group_size};
  const auto inputs = make_inputs(512);
  const auto moment =
      mx::divide(mx::matmul(mx::transpose(inputs), inputs), mx::array(512.0f));
  const auto weights = make_weights(16);
  const Quantizer nearest(format, DType::f32);
  const CalibratedQuantizer calibrated(
      format, DType::f32, std::make_shared<const ErrorFeedback>(moment, 0.01));
  const auto plain = round_trip(weights, bits, [&](auto row, PackedRow out) {
    nearest.quantize_row(row, out);
  });
  const auto ours = round_trip(weights, bits, [&](auto row, PackedRow out) {
    calibrated.quantize_row(row, out);
  });
  const auto exact = as_matrix(weights);
  EXPECT_LT(
      output_error(inputs, ours, exact),
      0.5 * output_error(inputs, plain, exact));
}

INSTANTIATE_TEST_SUITE_P(
    Bits,
    CalibratedQuantizerTest,
    ::testing::Values(2, 3, 4, 5, 6, 8));

TEST(SearchGroup, NeverLosesToTheWholeRange) {
  const auto weights = make_weights(8);
  std::vector<float> costs(group_size, 1.0f);
  costs[7] = 100;
  for (std::size_t at = 0; at < weights.size(); at += group_size) {
    const auto values = std::span(weights).subspan(at, group_size);
    const auto [low, high] = std::minmax_element(values.begin(), values.end());
    const AffineGrid whole{(*high - *low) / 7, *low};
    const auto found = search_group(values, costs, 3, DType::f32);
    EXPECT_LE(
        group_error(values, costs, 3, found),
        group_error(values, costs, 3, whole) * 1.0001);
  }
}

TEST(SearchGroup, EqualNumbersAreExact) {
  const std::vector<float> values(group_size, -0.75f);
  const std::vector<float> costs(group_size, 1.0f);
  for (const int bits : {2, 3, 8}) {
    const auto found = search_group(values, costs, bits, DType::bf16);
    EXPECT_EQ(group_error(values, costs, bits, found), 0);
  }
}

TEST(ErrorFeedback, InputsThatAreZeroDoNoHarm) {
  const auto moment = mx::zeros({n_columns, n_columns}, mx::float32);
  const ErrorFeedback feedback(moment, 0.01);
  const CalibratedQuantizer quantizer(
      {QuantMode::affine, 4, group_size},
      DType::f32,
      std::make_shared<const ErrorFeedback>(moment, 0.01));
  const auto weights = make_weights(2);
  const auto out = round_trip(weights, 4, [&](auto row, PackedRow to) {
    quantizer.quantize_row(row, to);
  });
  EXPECT_LT(
      mx::max(mx::abs(mx::subtract(out, as_matrix(weights)))).item<float>(),
      0.5);
}

} // namespace
} // namespace qwen3_mlx
