// SPDX-License-Identifier: MIT
// A file of the `safetensors` package (scripts/make_weights_goldens.py).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "formats/safetensors.h"

namespace qwen3_mlx {
namespace {

TEST(SafetensorsGolden, EveryNumpyTypeIsReadExactly) {
  const SafetensorsFile file(
      std::filesystem::path(QWEN3_MLX_TEST_DATA) / "safetensors" /
      "all_dtypes.safetensors");
  EXPECT_EQ(file.metadata().at("format"), "np");
  EXPECT_EQ(file.metadata().at("text"), "\"\xC3\xA9\\");
  const std::vector<std::pair<std::string, DType>> tensors = {
      {"of.bool", DType::boolean},
      {"of.uint8", DType::u8},
      {"of.int8", DType::i8},
      {"of.uint16", DType::u16},
      {"of.int16", DType::i16},
      {"of.float16", DType::f16},
      {"of.uint32", DType::u32},
      {"of.int32", DType::i32},
      {"of.float32", DType::f32},
      {"of.uint64", DType::u64},
      {"of.int64", DType::i64},
      {"of.float64", DType::f64},
      {"of.complex64", DType::c64},
  };
  EXPECT_EQ(file.tensors().size(), tensors.size() + 2);
  for (std::size_t idx = 0; idx < tensors.size(); ++idx) {
    const auto& [name, dtype] = tensors[idx];
    const auto* tensor = file.find(name);
    ASSERT_NE(tensor, nullptr) << name;
    EXPECT_EQ(tensor->dtype, dtype);
    EXPECT_THAT(tensor->shape, ::testing::ElementsAre(2, 3));
    std::vector<std::uint8_t> bytes(tensor->n_bytes);
    ASSERT_EQ(bytes.size(), 6 * dtype_bits(dtype) / 8);
    file.file().read(tensor->offset, bytes.size(), bytes.data());
    for (std::size_t at = 0; at < bytes.size(); ++at) {
      const auto expected = dtype == DType::boolean ? at % 2 : at + idx;
      ASSERT_EQ(bytes[at], expected) << name;
    }
  }
  EXPECT_TRUE(file.find("scalar")->shape.empty());
  EXPECT_THAT(file.find("empty")->shape, ::testing::ElementsAre(0, 4));
}

} // namespace
} // namespace qwen3_mlx
