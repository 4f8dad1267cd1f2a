// SPDX-License-Identifier: MIT
#include "kernels/cpu/linear.h"

#include <gtest/gtest.h>

#include "kernels/cpu/isa.h"
#include "kernels/cpu_testing.h"

namespace qwen3_mlx::cpu {
namespace {

using testing::all_formats;
using testing::decode;
using testing::encode;
using testing::random_floats;
using testing::relative_error;
using testing::TestMatrix;
using testing::TestPacked;

constexpr double kInt8Bound = 1e-2;
constexpr double kExactBound = 1e-5;
// Rows rounded to bfloat16: 2^-9 at most, a third of it on average.
constexpr double kPairsBound = 2e-3;

// Whether the set rounds rows for such weights to bfloat16, unless told not to.
bool takes_pairs(const KernelTable& kernels, const PackedLayout& layout) {
  return kernels.has_bf16_pairs && layout.codes == Codes::plain &&
      layout.type == Float::bf16;
}

std::vector<double>
product(const std::vector<float>& x, int num_rows, const TestMatrix& w) {
  const int rows = w.source.rows;
  const int cols = w.source.cols;
  std::vector<double> dense(static_cast<std::size_t>(rows * cols));
  for (int row = 0; row < rows; ++row) {
    for (int col = 0; col < cols; ++col) {
      dense[static_cast<std::size_t>(row * cols + col)] = w.value(row, col);
    }
  }
  std::vector<double> out;
  for (int m = 0; m < num_rows; ++m) {
    for (int row = 0; row < rows; ++row) {
      double total = 0;
      for (int col = 0; col < cols; ++col) {
        total += double(x[static_cast<std::size_t>(m * cols + col)]) *
            dense[static_cast<std::size_t>(row * cols + col)];
      }
      out.push_back(total);
    }
  }
  return out;
}

std::vector<float> run_linear(
    const Context& context,
    const std::vector<float>& x,
    int num_rows,
    const TestPacked& w,
    LinearOptions options = {}) {
  const auto cols = static_cast<std::size_t>(w.layout.cols);
  const auto outputs =
      static_cast<std::size_t>(w.layout.rows / (options.gated ? 2 : 1));
  std::vector<float> out(static_cast<std::size_t>(num_rows) * outputs);
  linear(
      context,
      {x.data(), Float::f32, cols},
      num_rows,
      {w.layout, w.data.data()},
      options,
      {out.data(), Float::f32, outputs});
  return out;
}

TEST(CpuLinear, EveryFormatAndInstructionSetAgreesWithItsDefinition) {
  ThreadPool pool(2);
  for (const SourceMatrix& format : all_formats(40, 384)) {
    const TestMatrix matrix(format, 3);
    const TestPacked packed(matrix.source);
    const int num_rows = 5;
    const auto x = random_floats(5 * 384, 17);
    const auto expected = product(x, num_rows, matrix);
    for (const bool exact : {false, true}) {
      std::vector<float> first;
      for (const KernelTable* kernels : available_kernels()) {
        const auto out =
            run_linear({pool, *kernels, exact}, x, num_rows, packed);
        const bool plain = packed.layout.codes == Codes::plain;
        const bool pairs = !exact && takes_pairs(*kernels, packed.layout);
        EXPECT_LE(
            relative_error(out, expected),
            pairs                ? kPairsBound
                : exact || plain ? kExactBound
                                 : kInt8Bound)
            << kernels->name << " bits " << format.bits << " group "
            << format.group << (exact ? " exact" : "");
        if (pairs) {
          continue;
        }
        if (first.empty()) {
          first = out;
        }
        EXPECT_EQ(out, first) << kernels->name << " bits " << format.bits;
      }
    }
  }
}

TEST(CpuLinear, RowsDependNeitherOnTheBatchNorOnTheThreads) {
  for (const SourceMatrix& format : all_formats(70, 256)) {
    const TestMatrix matrix(format, 5);
    const TestPacked packed(matrix.source);
    const auto x = random_floats(33 * 256, 23);
    for (const bool exact : {false, true}) {
      for (const KernelTable* kernels : available_kernels()) {
        ThreadPool one(1);
        std::vector<float> alone;
        for (std::size_t m = 0; m < 33; ++m) {
          const std::vector<float> row(
              x.begin() + static_cast<std::ptrdiff_t>(m * 256),
              x.begin() + static_cast<std::ptrdiff_t>((m + 1) * 256));
          const auto out = run_linear({one, *kernels, exact}, row, 1, packed);
          alone.insert(alone.end(), out.begin(), out.end());
        }
        for (const int num_rows : {0, 1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 33}) {
          ThreadPool pool(1 + num_rows % 4);
          const auto out =
              run_linear({pool, *kernels, exact}, x, num_rows, packed);
          ASSERT_TRUE(std::equal(out.begin(), out.end(), alone.begin()))
              << kernels->name << " rows " << num_rows << " bits "
              << format.bits;
        }
      }
    }
  }
}

TEST(CpuLinear, ShapesOfAllRemainders) {
  ThreadPool pool(3);
  for (const int rows : {1, 15, 16, 17, 33}) {
    for (const int cols : {32, 96, 160, 352}) {
      const TestMatrix quantized(
          {.rows = rows,
           .cols = cols,
           .format = SourceFormat::affine,
           .bits = 4,
           .group = 32,
           .type = Float::bf16},
          9);
      const TestMatrix plain(
          {.rows = rows,
           .cols = cols + 3,
           .format = SourceFormat::plain,
           .type = Float::bf16},
          9);
      for (const TestMatrix* matrix : {&quantized, &plain}) {
        const TestPacked packed(matrix->source);
        const auto x = random_floats(
            static_cast<std::size_t>(3 * matrix->source.cols), 29);
        const auto expected = product(x, 3, *matrix);
        for (const KernelTable* kernels : available_kernels()) {
          EXPECT_LE(
              relative_error(
                  run_linear({pool, *kernels, true}, x, 3, packed), expected),
              kExactBound)
              << kernels->name << " " << rows << " x " << cols;
          // One output has no average to hide in.
          EXPECT_LE(
              relative_error(
                  run_linear({pool, *kernels, false}, x, 3, packed), expected),
              rows == 1 ? 2 * kInt8Bound : kInt8Bound)
              << kernels->name << " " << rows << " x " << cols;
        }
      }
    }
  }
}

TEST(CpuLinear, PlainShapesOfAllRemainders) {
  ThreadPool pool(2);
  for (const Float type : {Float::f32, Float::f16, Float::bf16}) {
    for (const int rows : {1, 16, 17, 31, 33, 48}) {
      for (const int cols : {1, 2, 31, 63, 64, 65, 129}) {
        const TestMatrix matrix(
            {.rows = rows,
             .cols = cols,
             .format = SourceFormat::plain,
             .type = type},
            71);
        const TestPacked packed(matrix.source);
        for (const int num_rows : {1, 2, 3, 6, 7, 12, 13, 25}) {
          // Elements that bfloat16 holds: pairs of them are exact, too.
          const auto count = static_cast<std::size_t>(num_rows * cols);
          const auto x = decode(
              encode(random_floats(count, 73), Float::bf16).data(),
              Float::bf16,
              count);
          const auto expected = product(x, num_rows, matrix);
          for (const KernelTable* kernels : available_kernels()) {
            EXPECT_LE(
                relative_error(
                    run_linear({pool, *kernels, false}, x, num_rows, packed),
                    expected),
                kExactBound)
                << kernels->name << " " << rows << " x " << cols << ", "
                << num_rows << " rows of type " << static_cast<int>(type);
          }
        }
      }
    }
  }
}

TEST(CpuLinear, NormBiasResidualAndTypes) {
  ThreadPool pool(2);
  const int rows = 37;
  const int cols = 192;
  const TestMatrix matrix(
      {.rows = rows,
       .cols = cols,
       .format = SourceFormat::affine,
       .bits = 8,
       .group = 64,
       .type = Float::f16},
      13);
  const TestPacked packed(matrix.source);
  const auto norm_weight = random_floats(cols, 31);
  const auto bias = random_floats(rows, 37);
  for (const Float type : {Float::f32, Float::f16, Float::bf16}) {
    // Odd strides: rows of a wider tensor.
    const std::size_t x_stride = cols + 5;
    const std::size_t out_stride = rows + 3;
    const auto x_bytes = encode(random_floats(4 * x_stride, 41), type);
    const auto x = decode(x_bytes.data(), type, 4 * x_stride);
    const auto residual_bytes = encode(random_floats(4 * out_stride, 43), type);
    const auto weight_bytes = encode(norm_weight, type);
    const auto bias_bytes = encode(bias, type);
    const auto weight = decode(weight_bytes.data(), type, cols);
    std::vector<float> normalized;
    for (std::size_t m = 0; m < 4; ++m) {
      double squares = 0;
      for (std::size_t col = 0; col < cols; ++col) {
        squares += double(x[m * x_stride + col]) * x[m * x_stride + col];
      }
      for (std::size_t col = 0; col < cols; ++col) {
        normalized.push_back(float(
            x[m * x_stride + col] / std::sqrt(squares / cols + 1e-6) *
            weight[col]));
      }
    }
    auto expected = product(normalized, 4, matrix);
    for (std::size_t m = 0; m < 4; ++m) {
      for (std::size_t row = 0; row < rows; ++row) {
        expected[m * rows + row] +=
            double(load_float(bias_bytes.data(), type, row)) +
            load_float(residual_bytes.data(), type, m * out_stride + row);
      }
    }
    for (const KernelTable* kernels : available_kernels()) {
      std::vector<std::byte> out_bytes(4 * out_stride * size_of(type));
      linear(
          {pool, *kernels, true},
          {x_bytes.data(), type, x_stride},
          4,
          {packed.layout, packed.data.data()},
          {.norm = RmsNorm{{weight_bytes.data(), type}, 1e-6F},
           .bias = Vector{bias_bytes.data(), type},
           .residual = Rows{residual_bytes.data(), type, out_stride}},
          {out_bytes.data(), type, out_stride});
      std::vector<float> out;
      for (std::size_t m = 0; m < 4; ++m) {
        for (std::size_t row = 0; row < rows; ++row) {
          out.push_back(
              load_float(out_bytes.data(), type, m * out_stride + row));
        }
        for (std::size_t pad = rows; pad < out_stride; ++pad) {
          EXPECT_EQ(
              load_float(out_bytes.data(), type, m * out_stride + pad), 0);
        }
      }
      const double bound = type == Float::f32 ? kExactBound
          : type == Float::f16                ? 1e-3
                                              : 5e-3;
      EXPECT_LE(relative_error(out, expected), bound) << kernels->name;
    }
  }
}

TEST(CpuLinear, GatedPlainWeightsWithBiasAndResidual) {
  ThreadPool pool(2);
  const int inner = 48;
  const int cols = 70;
  const TestMatrix matrix(
      {.rows = 2 * inner,
       .cols = cols,
       .format = SourceFormat::plain,
       .type = Float::bf16},
      79);
  const TestPacked packed(matrix.source);
  const auto x = decode(
      encode(random_floats(14 * cols, 83), Float::bf16).data(),
      Float::bf16,
      14 * cols);
  const auto bias = random_floats(2 * inner, 89);
  const auto residual = random_floats(14 * inner, 97);
  const auto both = product(x, 14, matrix);
  std::vector<double> expected;
  for (std::size_t m = 0; m < 14; ++m) {
    for (std::size_t idx = 0; idx < inner; ++idx) {
      const double gate = both[m * 2 * inner + idx] + bias[idx];
      const double up = both[m * 2 * inner + inner + idx] + bias[inner + idx];
      expected.push_back(
          gate / (1 + std::exp(-gate)) * up + residual[m * inner + idx]);
    }
  }
  for (const KernelTable* kernels : available_kernels()) {
    const auto out = run_linear(
        {pool, *kernels, false},
        x,
        14,
        packed,
        {.bias = Vector{bias.data(), Float::f32},
         .residual = Rows{residual.data(), Float::f32, inner},
         .gated = true});
    EXPECT_LE(relative_error(out, expected), kExactBound) << kernels->name;
  }
}

TEST(CpuLinear, GatedIsSwigluOfTheHalves) {
  ThreadPool pool(2);
  for (const int inner : {16, 48, 24}) { // 24: gate and up share a tile
    const TestMatrix matrix(
        {.rows = 2 * inner,
         .cols = 128,
         .format = SourceFormat::affine,
         .bits = 4,
         .group = 64,
         .type = Float::bf16},
        19);
    const TestPacked packed(matrix.source);
    const auto x = random_floats(9 * 128, 47);
    const auto both = product(x, 9, matrix);
    std::vector<double> expected;
    for (std::size_t m = 0; m < 9; ++m) {
      for (int idx = 0; idx < inner; ++idx) {
        const double* row = both.data() + m * 2 * std::size_t(inner);
        expected.push_back(
            row[idx] / (1 + std::exp(-row[idx])) * row[inner + idx]);
      }
    }
    for (const KernelTable* kernels : available_kernels()) {
      EXPECT_LE(
          relative_error(
              run_linear({pool, *kernels, true}, x, 9, packed, {.gated = true}),
              expected),
          kExactBound)
          << kernels->name << " " << inner;
    }
  }
}

TEST(CpuExperts, GroupedEqualsOneByOneToTheBit) {
  const int num_experts = 6;
  const int top_k = 3;
  const int hidden = 64;
  for (const int inner : {32, 40}) { // 40: gate and up share a tile
    const SourceMatrix gate_up_format{
        .rows = 2 * inner,
        .cols = hidden,
        .format = SourceFormat::affine,
        .bits = 4,
        .group = 32,
        .type = Float::bf16};
    const SourceMatrix down_format{
        .rows = hidden,
        .cols = inner,
        .format = inner % 32 == 0 ? SourceFormat::affine : SourceFormat::plain,
        .bits = 8,
        .group = 32,
        .type = Float::bf16};
    std::vector<std::byte> gate_up;
    std::vector<std::byte> down;
    PackedLayout gate_up_layout;
    PackedLayout down_layout;
    for (unsigned expert = 0; expert < num_experts; ++expert) {
      const TestPacked g(TestMatrix(gate_up_format, expert).source);
      const TestPacked d(TestMatrix(down_format, 100 + expert).source);
      gate_up_layout = g.layout;
      down_layout = d.layout;
      gate_up.insert(gate_up.end(), g.data.begin(), g.data.end());
      down.insert(down.end(), d.data.begin(), d.data.end());
    }
    const ExpertsView view{
        {gate_up_layout, gate_up.data()},
        std::nullopt,
        {down_layout, down.data()},
        num_experts};
    const int num_tokens = 21;
    const auto x = random_floats(num_tokens * hidden, 53);
    std::vector<std::uint32_t> ids;
    for (std::uint32_t idx = 0; idx < num_tokens * top_k; ++idx) {
      ids.push_back((idx * 7 + idx / 5) % (num_experts - 1)); // one unused
    }
    for (const KernelTable* kernels : available_kernels()) {
      ThreadPool pool(3);
      const Context context{pool, *kernels, false};
      std::vector<float> out(num_tokens * top_k * hidden);
      experts_mlp(
          context,
          {x.data(), Float::f32, hidden},
          num_tokens,
          top_k,
          ids.data(),
          view,
          {out.data(), Float::f32, hidden});
      for (std::size_t pair = 0; pair < num_tokens * top_k; ++pair) {
        const std::uint32_t expert = ids[pair];
        std::vector<float> mid(static_cast<std::size_t>(inner));
        std::vector<float> one(hidden);
        linear(
            context,
            {x.data() + pair / top_k * hidden, Float::f32, hidden},
            1,
            {gate_up_layout,
             gate_up.data() + expert * gate_up_layout.n_bytes()},
            {.gated = true},
            {mid.data(), Float::f32, std::size_t(inner)});
        linear(
            context,
            {mid.data(), Float::f32, std::size_t(inner)},
            1,
            {down_layout, down.data() + expert * down_layout.n_bytes()},
            {},
            {one.data(), Float::f32, hidden});
        ASSERT_TRUE(std::equal(
            one.begin(),
            one.end(),
            out.begin() + static_cast<std::ptrdiff_t>(pair * hidden)))
            << kernels->name;
      }
      const auto weights = random_floats(num_tokens * top_k, 59);
      std::vector<float> combined(num_tokens * hidden);
      combine_experts(
          context,
          {out.data(), Float::f32, hidden},
          weights.data(),
          num_tokens,
          top_k,
          hidden,
          Rows{x.data(), Float::f32, hidden},
          {combined.data(), Float::f32, hidden});
      std::vector<double> expected;
      for (std::size_t token = 0; token < num_tokens; ++token) {
        for (std::size_t idx = 0; idx < hidden; ++idx) {
          double total = x[token * hidden + idx];
          for (std::size_t slot = 0; slot < top_k; ++slot) {
            const std::size_t pair = token * top_k + slot;
            total += double(weights[pair]) * out[pair * hidden + idx];
          }
          expected.push_back(total);
        }
      }
      EXPECT_LE(relative_error(combined, expected), 1e-6);
    }
  }
}

TEST(CpuEmbedding, GathersRowsOfThePackedTable) {
  ThreadPool pool(2);
  const TestMatrix matrix(
      {.rows = 50,
       .cols = 96,
       .format = SourceFormat::affine,
       .bits = 6,
       .group = 32,
       .type = Float::f16},
      61);
  const TestPacked packed(matrix.source);
  const std::vector<std::uint32_t> tokens{49, 0, 17, 17, 3};
  std::vector<float> out(5 * 96);
  embedding(
      {pool, select_kernels(), false},
      tokens.data(),
      5,
      {packed.layout, packed.data.data()},
      {out.data(), Float::f32, 96});
  for (std::size_t idx = 0; idx < 5; ++idx) {
    for (std::size_t col = 0; col < 96; ++col) {
      EXPECT_NEAR(
          out[idx * 96 + col], matrix.value(int(tokens[idx]), int(col)), 1e-6);
    }
  }
}

} // namespace
} // namespace qwen3_mlx::cpu
