// SPDX-License-Identifier: MIT
// Matrices of formats that kernels hold in wider codes: into blocks and out of
// them again, without a change of any number.
#include <array>

#include "kernels/cuda/device_data.h"

namespace qwen3_mlx::cuda {
namespace {

std::vector<std::uint8_t> random_bytes(std::mt19937& rng, std::size_t size) {
  std::vector<std::uint8_t> bytes(size);
  for (auto& byte : bytes) {
    byte = static_cast<std::uint8_t>(rng());
  }
  return bytes;
}

// By definition: bit after bit.
unsigned
code_of(const std::vector<std::uint8_t>& bytes, std::size_t idx, int bits) {
  unsigned code = 0;
  for (int i = 0; i < bits; ++i) {
    const std::size_t bit =
        idx * static_cast<std::size_t>(bits) + static_cast<std::size_t>(i);
    code |= (static_cast<unsigned>(bytes[bit / 8]) >> bit % 8 & 1U) << i;
  }
  return code;
}

TEST(PackedCodesTest, ReadsAnyWidth) {
  std::mt19937 rng(1);
  for (const int bits : {2, 3, 4, 5, 6, 8}) {
    constexpr std::size_t count = 64;
    // As many bytes as there are: none behind them is read.
    const auto bytes =
        random_bytes(rng, count * static_cast<std::size_t>(bits) / 8);
    for (std::size_t idx = 0; idx < count; ++idx) {
      EXPECT_EQ(code_at(bytes.data(), idx, bits), code_of(bytes, idx, bits))
          << idx << " of " << bits << " bits";
    }
  }
}

TEST(PackedCodesTest, Mxfp4IsAffine) {
  for (unsigned code = 0; code < 16; ++code) {
    EXPECT_EQ(
        (static_cast<double>(mxfp4_as_affine(code)) - kMxfp4Offset) / 2,
        e2m1_number(code))
        << code;
  }
}

TEST(PackedCodesTest, ReadsE4m3) {
  for (unsigned code = 0; code < 256; ++code) {
    EXPECT_EQ(static_cast<double>(e4m3_value(code)), e4m3_number(code)) << code;
  }
}

class PackedMatrixTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!has_gpu()) {
      GTEST_SKIP() << "no GPU";
    }
    launcher_ = make_launcher();
  }

  // What comes out of blocks.
  std::vector<float>
  round_trip(const PackedLayout& layout, int count, const SourceMatrix& from) {
    const DeviceArray<std::uint8_t> packed(
        layout.n_bytes() * static_cast<std::size_t>(count));
    pack(launcher_, layout, count, from, packed.get());
    std::vector<float> all;
    for (int idx = 0; idx < count; ++idx) {
      const DeviceArray<float> out(
          static_cast<std::size_t>(layout.rows * layout.cols));
      unpack(
          launcher_,
          layout,
          packed.get() + layout.n_bytes() * static_cast<std::size_t>(idx),
          Float::f32,
          out.get());
      const auto values = out.read();
      all.insert(all.end(), values.begin(), values.end());
    }
    return all;
  }

  Launcher launcher_;
  std::mt19937 rng_{4};
};

TEST_F(PackedMatrixTest, WidensCodes) {
  for (const int bits : {2, 3, 5, 6}) {
    for (const int group : {32, 64, 128}) {
      for (const int count : {1, 3}) {
        const PackedLayout layout{
            count == 1 ? 19 : 16, 384, bits <= 4 ? 4 : 8, group, Float::bf16};
        const auto n = static_cast<std::size_t>(count * layout.rows) *
            static_cast<std::size_t>(layout.cols);
        const auto codes =
            random_bytes(rng_, n * static_cast<std::size_t>(bits) / 8);
        const auto groups = n / static_cast<std::size_t>(group);
        const auto scales = Numbers::random(rng_, Float::bf16, groups, 0.1F);
        const auto biases = Numbers::random(rng_, Float::bf16, groups);
        const DeviceArray<std::uint8_t> codes_d(codes);
        const DeviceArray<std::uint8_t> scales_d(scales.bytes);
        const DeviceArray<std::uint8_t> biases_d(biases.bytes);
        const auto got = round_trip(
            layout,
            count,
            {.weight = codes_d.get(),
             .scales = scales_d.get(),
             .biases = biases_d.get(),
             .bits = bits});
        for (std::size_t i = 0; i < n; ++i) {
          const std::size_t g = i / static_cast<std::size_t>(group);
          const double expected =
              scales.values[g] * code_of(codes, i, bits) + biases.values[g];
          ASSERT_FLOAT_EQ(got[i], static_cast<float>(expected))
              << i << ", " << bits << " bits in groups of " << group;
        }
      }
    }
  }
}

TEST_F(PackedMatrixTest, HoldsMxfp4) {
  const PackedLayout layout{19, 384, 8, 32, Float::bf16};
  const auto n = static_cast<std::size_t>(layout.rows * layout.cols);
  const auto codes = random_bytes(rng_, n / 2);
  auto exponents = random_bytes(rng_, n / 32);
  for (auto& exponent : exponents) {
    exponent = static_cast<std::uint8_t>(exponent % 100 + 80);
  }
  const DeviceArray<std::uint8_t> codes_d(codes);
  const DeviceArray<std::uint8_t> exponents_d(exponents);
  const auto got = round_trip(
      layout,
      1,
      {.weight = codes_d.get(),
       .scales = exponents_d.get(),
       .bits = 4,
       .form = SourceForm::mxfp4});
  for (std::size_t i = 0; i < n; ++i) {
    const double expected =
        std::ldexp(e2m1_number(code_of(codes, i, 4)), exponents[i / 32] - 127);
    ASSERT_EQ(static_cast<double>(got[i]), expected) << i;
  }
}

TEST_F(PackedMatrixTest, HoldsSmallFloats) {
  for (const CodeForm form : {CodeForm::e4m3, CodeForm::e2m1}) {
    for (const int cols : {384, 96, 48}) {
      if (form == CodeForm::e4m3 && cols % 32 != 0) {
        continue;
      }
      const PackedLayout layout{
          19, cols, form == CodeForm::e4m3 ? 8 : 4, 32, Float::bf16, form};
      const RandomMatrix matrix(rng_, layout);
      const DeviceArray<std::uint8_t> weight(matrix.weight);
      const DeviceArray<std::uint8_t> scales(matrix.scales);
      const auto got = round_trip(
          layout,
          1,
          {.weight = weight.get(),
           .scales = scales.get(),
           .form = matrix.form()});
      for (std::size_t i = 0; i < matrix.values.size(); ++i) {
        ASSERT_EQ(static_cast<double>(got[i]), matrix.values[i]) << i;
      }
    }
  }
}

} // namespace
} // namespace qwen3_mlx::cuda
