// SPDX-License-Identifier: MIT
#include "kernels/cpu/packed_matrix.h"

#include <gtest/gtest.h>

#include "kernels/cpu_testing.h"

namespace qwen3_mlx::cpu {
namespace {

using testing::all_formats;
using testing::TestMatrix;
using testing::TestPacked;

TEST(PackedMatrix, RowsMeanWhatTheCheckpointMeans) {
  for (const int rows : {1, 15, 16, 17, 40}) {
    for (const SourceMatrix& format : all_formats(rows, 256)) {
      const TestMatrix matrix(format, 7);
      const TestPacked packed(matrix.source);
      std::vector<float> row(256);
      for (int idx = 0; idx < rows; ++idx) {
        unpack_row(packed.layout, packed.data.data(), idx, row.data());
        for (int col = 0; col < 256; ++col) {
          const double expected = matrix.value(idx, col);
          ASSERT_NEAR(
              row[static_cast<std::size_t>(col)],
              expected,
              1e-6 * (1 + std::abs(expected)))
              << "bits " << format.bits << " row " << idx << " col " << col;
        }
      }
    }
  }
}

TEST(PackedMatrix, OddColumnsOfPlainRowsAreFilledWithZeros) {
  for (const Float type : {Float::f32, Float::f16, Float::bf16}) {
    for (const int cols : {1, 2, 33}) {
      const TestMatrix matrix(
          {.rows = 19,
           .cols = cols,
           .format = SourceFormat::plain,
           .type = type},
          7);
      const PackedLayout layout = packed_layout(matrix.source).value();
      std::vector<std::byte> packed(layout.n_bytes(), std::byte{0xff});
      pack_tiles(matrix.source, layout, 0, layout.num_tiles(), packed.data());
      std::vector<float> row(static_cast<std::size_t>(cols));
      for (int idx = 0; idx < 32; ++idx) {
        unpack_row(layout, packed.data(), idx, row.data());
        for (int col = 0; col < cols; ++col) {
          EXPECT_EQ(
              row[static_cast<std::size_t>(col)],
              idx < 19 ? matrix.value(idx, col) : 0);
        }
        if (cols % 2 != 0) {
          const std::byte* const tile = packed.data() +
              static_cast<std::size_t>(idx / kTileRows) * layout.tile_bytes();
          EXPECT_EQ(
              load_float(tile, type, layout.plain_index(cols, idx % kTileRows)),
              0);
        }
      }
    }
  }
}

TEST(PackedMatrix, UnpacksToTheBit) {
  for (const int rows : {3, 16, 37}) {
    for (const SourceMatrix& format : all_formats(rows, 128)) {
      if (format.format == SourceFormat::mxfp8) {
        continue; // kept as bfloat16, which has the value but not the code
      }
      const TestMatrix matrix(format, 11);
      const TestPacked packed(matrix.source);
      std::vector<std::byte> weight(matrix.weight.size());
      std::vector<std::byte> scales(matrix.scales.size());
      std::vector<std::byte> biases(matrix.biases.size());
      unpack_rows(
          packed.layout,
          packed.data.data(),
          matrix.source,
          0,
          rows,
          {weight.data(), scales.data(), biases.data()});
      EXPECT_EQ(weight, matrix.weight) << "bits " << format.bits;
      EXPECT_EQ(scales, matrix.scales) << "bits " << format.bits;
      EXPECT_EQ(biases, matrix.biases) << "bits " << format.bits;
    }
  }
}

TEST(PackedMatrix, RefusesWhatNoKernelReads) {
  SourceMatrix odd{
      .rows = 4,
      .cols = 96,
      .format = SourceFormat::affine,
      .bits = 4,
      .group = 64};
  EXPECT_FALSE(packed_layout(odd));
  odd.group = 48;
  EXPECT_FALSE(packed_layout(odd));
  odd.group = 32;
  EXPECT_TRUE(packed_layout(odd));
  odd.bits = 7;
  EXPECT_FALSE(packed_layout(odd));
}

TEST(PackedMatrix, HalfConversionsAreExact) {
  for (unsigned bits = 0; bits < 0x10000; ++bits) {
    const auto half = static_cast<std::uint16_t>(bits);
    const float value = f16_to_float(half);
    if (!std::isnan(value)) {
      ASSERT_EQ(float_to_f16(value), half);
    }
    const float brain = bf16_to_float(half);
    if (!std::isnan(brain)) {
      ASSERT_EQ(float_to_bf16(brain), half);
    }
  }
  EXPECT_EQ(float_to_f16(1.0F + 0x1p-11F), 0x3c00); // tie to even
  EXPECT_EQ(float_to_f16(1.0F + 0x3p-11F), 0x3c02);
  EXPECT_EQ(float_to_f16(65520.0F), 0x7c00);
  EXPECT_EQ(float_to_f16(0x1p-25F), 0);
  EXPECT_EQ(float_to_bf16(bits_to_float(0x3f808000)), 0x3f80);
  EXPECT_TRUE(std::isnan(bf16_to_float(float_to_bf16(std::nanf("")))));
}

} // namespace
} // namespace qwen3_mlx::cpu
