// SPDX-License-Identifier: MIT
// The fused operations against their definitions, element by element or expert
// by expert, on MLX's default device.
#include "kernels/ops.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "mlx/fast.h"
#include "mlx/ops.h"
#include "qwen3_mlx/error.h"
#include "testing/arrays.h"

namespace qwen3_mlx {
namespace {

using testing::max_difference;
using testing::normal;

// float32 sums of up to 96 products in another order; on a GPU MLX may round
// the factors to TF32 unless MLX_ENABLE_TF32=0.
constexpr float tolerance = 2e-4f;

Matrix plain(const mx::array& weight) {
  return {weight, std::nullopt, std::nullopt, {}};
}

Matrix packed(const mx::array& weight, const QuantFormat& format) {
  const auto parts = mx::quantize(
      weight, format.group_size, format.bits, to_string(format.mode));
  Matrix matrix{parts[0], parts[1], std::nullopt, format};
  if (parts.size() > 2) {
    matrix.biases = parts[2];
  }
  return matrix;
}

mx::array unpacked(const Matrix& w) {
  if (!w.format.is_quantized()) {
    return w.weight;
  }
  return mx::dequantize(
      w.weight,
      *w.scales,
      w.biases,
      w.format.group_size,
      w.format.bits,
      to_string(w.format.mode));
}

const std::vector<QuantFormat>& formats() {
  static const std::vector<QuantFormat> all = {
      {},
      {QuantMode::affine, 4, 64},
      {QuantMode::affine, 8, 32},
      {QuantMode::mxfp4, 4, 32}};
  return all;
}

Matrix make(const mx::array& weight, const QuantFormat& format) {
  return format.is_quantized() ? packed(weight, format) : plain(weight);
}

TEST(Ops, LinearIsAProductWithTheUnpackedMatrix) {
  const auto x = normal({5, 64}, 1);
  const auto bias = normal({96}, 2);
  const auto residual = normal({5, 96}, 3);
  const auto norm_weight = normal({64}, 4);
  for (const auto& format : formats()) {
    const auto w = make(normal({96, 64}, 5), format);
    EXPECT_EQ(w.in_dim(), 64);
    EXPECT_EQ(w.out_dim(), 96);
    const auto product = mx::matmul(x, mx::transpose(unpacked(w)));
    EXPECT_LT(max_difference(ops::linear(x, w), product), tolerance);
    EXPECT_LT(
        max_difference(ops::linear(x, w, bias), product + bias), tolerance);
    EXPECT_LT(
        max_difference(ops::linear_add(residual, x, w), residual + product),
        tolerance);
    EXPECT_LT(
        max_difference(
            ops::linear_add(residual, x, w, bias), residual + product + bias),
        tolerance);
    const auto n = mx::fast::rms_norm(x, norm_weight, 1e-6f);
    EXPECT_LT(
        max_difference(
            ops::norm_linear(x, {norm_weight, 1e-6f}, w),
            mx::matmul(n, mx::transpose(unpacked(w)))),
        tolerance);
    EXPECT_LT(
        max_difference(
            ops::linear(x, ops::rows(w, 32, 48)),
            mx::slice(product, {0, 32}, {5, 80})),
        tolerance);
  }
}

TEST(Ops, LinearChecksTheInnerDimension) {
  const auto w = plain(normal({96, 64}, 1));
  EXPECT_THROW(ops::linear(normal({5, 63}, 2), w), InvalidArgument);
  EXPECT_THROW(
      ops::linear_add(normal({5, 96}, 3), normal({5, 63}, 2), w),
      InvalidArgument);
}

TEST(Ops, EmbeddingTakesUnpackedRows) {
  const mx::array tokens({7u, 0u, 7u, 31u}, {4}, mx::uint32);
  for (const auto& format : formats()) {
    const auto table = make(normal({32, 64}, 1), format);
    EXPECT_EQ(
        max_difference(
            ops::embedding(tokens, table, mx::float32),
            mx::take(unpacked(table), tokens, 0)),
        0.0f);
  }
}

TEST(Ops, SwigluGatesTheSecondHalf) {
  for (const mx::Shape& shape :
       {mx::Shape{1, 64}, mx::Shape{7, 64}, mx::Shape{3, 2, 1, 64}}) {
    const auto x = normal(shape, 1);
    const auto halves = mx::split(x, 2, -1);
    const auto expected = halves[0] * mx::sigmoid(halves[0]) * halves[1];
    EXPECT_LT(max_difference(ops::swiglu(x), expected), 1e-5f);
  }
}

TEST(Ops, RouteTakesTheMostProbableExperts) {
  constexpr int n_tokens = 9;
  constexpr int n_experts = 12;
  constexpr int k = 3;
  auto logits = normal({n_tokens, n_experts}, 1);
  for (const bool normalize : {false, true}) {
    auto [experts, weights] = ops::route(logits, k, normalize);
    experts = mx::contiguous(mx::astype(experts, mx::uint32));
    weights = mx::contiguous(weights);
    experts.eval();
    weights.eval();
    for (int token = 0; token < n_tokens; ++token) {
      const float* row = logits.data<float>() + token * n_experts;
      std::vector<std::uint32_t> order(n_experts);
      std::iota(order.begin(), order.end(), 0u);
      std::sort(order.begin(), order.end(), [&](auto a, auto b) {
        return row[a] > row[b];
      });
      double all = 0;
      double chosen = 0;
      for (int i = 0; i < n_experts; ++i) {
        const double e = std::exp(static_cast<double>(row[order[i]]));
        all += e;
        chosen += i < k ? e : 0.0;
      }
      std::vector<std::uint32_t> found(
          experts.data<std::uint32_t>() + token * k,
          experts.data<std::uint32_t>() + (token + 1) * k);
      for (int i = 0; i < k; ++i) {
        const double expected = std::exp(static_cast<double>(row[found[i]])) /
            (normalize ? chosen : all);
        EXPECT_NEAR(weights.data<float>()[token * k + i], expected, 1e-5);
      }
      std::sort(found.begin(), found.end());
      std::sort(order.begin(), order.begin() + k);
      EXPECT_TRUE(std::equal(found.begin(), found.end(), order.begin()));
    }
  }
}

// Each token through its experts, one product after the other.
mx::array one_by_one(
    const mx::array& x,
    const mx::array& gate_up,
    const mx::array& down,
    const std::vector<std::uint32_t>& experts) {
  const int n_tokens = x.shape(0);
  const int k = static_cast<int>(experts.size()) / n_tokens;
  std::vector<mx::array> rows;
  for (std::size_t pair = 0; pair < experts.size(); ++pair) {
    const int token = static_cast<int>(pair) / k;
    const auto weight = [&](const mx::array& w) {
      return mx::transpose(mx::take(w, static_cast<int>(experts[pair]), 0));
    };
    const auto row = mx::slice(x, {token, 0}, {token + 1, x.shape(1)});
    rows.push_back(mx::matmul(
        ops::swiglu(mx::matmul(row, weight(gate_up))), weight(down)));
  }
  return mx::reshape(mx::concatenate(rows, 0), {n_tokens, k, x.shape(1)});
}

// Unsorted below 64 pairs of token and expert, sorted above.
void check_experts(const QuantFormat& format, mx::Dtype dtype, float bound) {
  constexpr int n_experts = 6;
  constexpr int k = 2;
  constexpr int hidden = 128;
  constexpr int inner = 128;
  const auto cast = [&](const mx::array& x) { return mx::astype(x, dtype); };
  const auto gate_up =
      make(cast(normal({n_experts, 2 * inner, hidden}, 2)), format);
  const auto down = make(cast(normal({n_experts, hidden, inner}, 3)), format);
  for (const int n_tokens : {1, 5, 40}) {
    const auto x = cast(normal({n_tokens, hidden}, 1));
    std::vector<std::uint32_t> chosen;
    for (int token = 0; token < n_tokens; ++token) {
      chosen.push_back(static_cast<std::uint32_t>(token * 5 % n_experts));
      chosen.push_back(static_cast<std::uint32_t>((token * 5 + 1) % n_experts));
    }
    // Through arithmetic, so that the indices are part of the graph.
    const auto experts = mx::astype(
        mx::array(chosen.begin(), {n_tokens, k}, mx::int32) + mx::array(0),
        mx::uint32);
    const auto expected =
        one_by_one(x, unpacked(gate_up), unpacked(down), chosen);
    EXPECT_LT(
        testing::relative_l2(
            ops::experts_mlp(x, {gate_up, nullptr, down}, experts), expected),
        bound)
        << n_tokens << " tokens";
    const auto gate = ops::rows(gate_up, 0, inner);
    const auto up = ops::rows(gate_up, inner, inner);
    EXPECT_LT(
        testing::relative_l2(
            ops::experts_mlp(x, {gate, &up, down}, experts), expected),
        bound)
        << n_tokens << " tokens, gate and up apart";
  }
}

TEST(Ops, PlainExpertsAreEachExpertAlone) {
  check_experts({}, mx::float32, 1e-5f);
}

TEST(Ops, PackedExpertsAreEachExpertAlone) {
  // MLX has no float32 kernel for packed experts on CUDA.
  const bool on_gpu = mx::default_device() == mx::Device::gpu;
  check_experts(
      {QuantMode::affine, 4, 64},
      on_gpu ? mx::bfloat16 : mx::float32,
      on_gpu ? 2e-2f : 1e-5f);
}

} // namespace
} // namespace qwen3_mlx
