// SPDX-License-Identifier: MIT
#include "formats/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "qwen3_mlx/error.h"
#include "testing/file_builders.h"
#include "testing/temp_dir.h"

namespace qwen3_mlx {
namespace {

using testing::bytes_of;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::safetensors_bytes;
using testing::TempDir;

SafetensorsFile open(const TempDir& dir, const std::string& bytes) {
  return SafetensorsFile(dir.write("model.safetensors", bytes));
}

/// One tensor "the.tensor" with 16 bytes of data.
std::string one_tensor(const std::string& fields, std::size_t n_bytes = 16) {
  return safetensors_bytes("{\"the.tensor\":{" + fields + "}}", n_bytes);
}

TEST(Safetensors, ReadsTensorsAndMetadata) {
  const TempDir dir;
  const auto file = open(
      dir,
      safetensors_bytes(
          R"({"__metadata__":{"format":"mlx"},)"
          R"("b":{"dtype":"BF16","shape":[2,3],"data_offsets":[4,16]},)"
          R"("a\u00e9":{"dtype":"F8_E4M3","shape":[4],"data_offsets":[0,4]},)"
          R"("scalar":{"dtype":"I64","shape":[],"data_offsets":[16,24]},)"
          R"("none":{"dtype":"F32","shape":[0,7],"data_offsets":[24,24]}}   )",
          24));
  EXPECT_EQ(file.metadata().at("format"), "mlx");
  ASSERT_EQ(file.tensors().size(), 4u);
  const auto* b = file.find("b");
  ASSERT_NE(b, nullptr);
  EXPECT_EQ(b->dtype, DType::bf16);
  EXPECT_THAT(b->shape, ElementsAre(2, 3));
  EXPECT_EQ(b->n_bytes, 12u);
  EXPECT_EQ(b->offset, file.file().size() - 20);
  EXPECT_EQ(file.find("a\xC3\xA9")->dtype, DType::f8_e4m3);
  EXPECT_THAT(file.find("scalar")->shape, IsEmpty());
  EXPECT_EQ(file.find("none")->n_bytes, 0u);
  EXPECT_EQ(file.find("absent"), nullptr);
}

TEST(Safetensors, AnEmptyFileOfNoTensorsIsValid) {
  const TempDir dir;
  EXPECT_TRUE(open(dir, safetensors_bytes("{}")).tensors().empty());
}

TEST(Safetensors, WrittenFilesReadBack) {
  const TempDir dir;
  const auto path = dir.path() / "out.safetensors";
  const std::vector<std::byte> bytes(12, std::byte{7});
  const std::span data(bytes);
  const std::vector<TensorToSave> tensors = {
      {"bytes", DType::u8, {3}, data.first(3)},
      {"floats", DType::f32, {2, 1}, data.first(8)},
      {"scalar", DType::f16, {}, data.first(2)}};
  save_safetensors(path, tensors, {{"format", "mlx"}, {"k", "\"\xC3\xA9"}});
  const SafetensorsFile file(path);
  EXPECT_EQ(file.metadata().at("k"), "\"\xC3\xA9");
  for (const auto& tensor : tensors) {
    const auto* found = file.find(tensor.name);
    ASSERT_NE(found, nullptr);
    EXPECT_EQ(found->dtype, tensor.dtype);
    EXPECT_EQ(found->shape, tensor.shape);
    EXPECT_EQ(found->offset % (dtype_bits(found->dtype) / 8), 0u);
  }
  EXPECT_EQ(file.find("floats")->offset % 8, 0u);
}

TEST(Safetensors, WriterRefusesWhatItCouldNotRead) {
  const TempDir dir;
  const auto path = dir.path() / "out.safetensors";
  const std::vector<std::byte> data(4);
  const TensorToSave good{"a", DType::f32, {1}, data};
  EXPECT_THROW(save_safetensors(path, std::vector{good, good}), TensorError);
  EXPECT_THROW(
      save_safetensors(
          path, std::vector{TensorToSave{"a", DType::f32, {2}, data}}),
      TensorError);
  EXPECT_TRUE(std::filesystem::is_empty(dir.path()));
}

struct Malformed {
  std::string name;
  std::string bytes;
  std::string place;
  std::string reason;
};

std::ostream& operator<<(std::ostream& out, const Malformed& malformed) {
  return out << malformed.name;
}

std::vector<Malformed> malformed_headers() {
  const std::string deep(100'000, '[');
  return {
      {"Empty", "", "", "header length"},
      {"SevenBytes", "1234567", "", "header length"},
      {"LengthPastTheEnd",
       bytes_of(std::uint64_t{100}) + "{}",
       "",
       "claims 100 bytes"},
      {"LengthWraps", bytes_of(~std::uint64_t{0}) + "{}", "", "claims"},
      {"LengthAbove100MB",
       bytes_of(std::uint64_t{100'000'001}) + "{}",
       "",
       "claims"},
      {"NoHeader", safetensors_bytes(""), "", "does not start with '{'"},
      {"LeadingSpace", safetensors_bytes(" {}"), "", "start with '{'"},
      {"Array", safetensors_bytes("[]"), "", "start with '{'"},
      {"NoJson", safetensors_bytes("{nonsense"), "", "not valid JSON"},
      {"CutJson", safetensors_bytes(R"({"a":{"dtype":)"), "", "a"},
      {"TextAfterObject", safetensors_bytes("{} {}"), "", "after the header"},
      {"TrailingComma", safetensors_bytes("{\"a\":1,}"), "tensor a", "object"},
      {"DeepNesting",
       safetensors_bytes("{\"a\":" + deep + std::string(100'000, ']') + "}"),
       "tensor a",
       "expected an object"},
      {"DeepNestingInShape",
       one_tensor("\"dtype\":\"F32\",\"shape\":" + deep),
       "the.tensor",
       "shape"},
      {"InvalidUtf8", safetensors_bytes("{\"\xFF\":{}}"), "", "not valid JSON"},
      {"MetadataIsText",
       safetensors_bytes(R"({"__metadata__":"x"})"),
       "__metadata__",
       "expected an object"},
      {"MetadataValueIsNumber",
       safetensors_bytes(R"({"__metadata__":{"k":1}})"),
       "__metadata__.k",
       "expected a string"},
      {"MetadataTwice",
       safetensors_bytes(R"({"__metadata__":{},"__metadata__":{}})"),
       "__metadata__",
       "twice"},
      {"MetadataKeyTwice",
       safetensors_bytes(R"({"__metadata__":{"k":"a","k":"b"}})"),
       "__metadata__.k",
       "twice"},
  };
}

std::vector<Malformed> malformed_tensors() {
  const std::string f32_4 = R"("dtype":"F32","shape":[4])";
  const auto offsets = [&](const std::string& values) {
    return one_tensor(f32_4 + ",\"data_offsets\":" + values);
  };
  const auto shape = [&](const std::string& values) {
    return one_tensor(
        R"("dtype":"F32","data_offsets":[0,16],"shape":)" + values);
  };
  const auto two = [](const std::string& a, const std::string& b) {
    return safetensors_bytes(
        R"({"first":{"dtype":"U8","shape":[8],"data_offsets":)" + a +
            R"(},"the.tensor":{"dtype":"U8","shape":[8],"data_offsets":)" + b +
            "}}",
        24);
  };
  return {
      {"UnknownDtype",
       one_tensor(R"("dtype":"F128","shape":[1],"data_offsets":[0,16])"),
       "the.tensor",
       "dtype is F128"},
      {"DtypeIsNumber",
       one_tensor(R"("dtype":32,"shape":[4],"data_offsets":[0,16])"),
       "the.tensor",
       "dtype"},
      {"NoDtype",
       one_tensor(R"("shape":[4],"data_offsets":[0,16])"),
       "the.tensor",
       "dtype is missing"},
      {"NoShape",
       one_tensor(R"("dtype":"F32","data_offsets":[0,16])"),
       "the.tensor",
       "shape is missing"},
      {"NoOffsets", one_tensor(f32_4), "the.tensor", "data_offsets is missing"},
      {"UnknownKey",
       one_tensor(f32_4 + R"(,"data_offsets":[0,16],"extra":1)"),
       "the.tensor",
       "\"extra\" is unknown"},
      {"DtypeTwice",
       one_tensor(f32_4 + R"(,"data_offsets":[0,16],"dtype":"U8")"),
       "the.tensor",
       "twice"},
      {"NoObject",
       safetensors_bytes(R"({"the.tensor":[]})"),
       "the.tensor",
       "expected an object"},
      {"NameTwice",
       safetensors_bytes(
           R"({"the.tensor":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},)"
           R"("the.tensor":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
           8),
       "the.tensor",
       "twice"},
      {"NameTooLong",
       safetensors_bytes("{\"" + std::string(600, 'n') + "\":{}}"),
       "nnn",
       "600 bytes"},
      {"EmptyName", safetensors_bytes("{\"\":{}}"), "tensor ", "0 bytes"},
      {"ShapeProductWraps",
       one_tensor(
           R"("dtype":"F32","shape":[65536,65536,65536,65536],)"
           R"("data_offsets":[0,0])",
           0),
       "the.tensor",
       "expected a whole number below"},
      {"DimAboveInt32",
       shape("[4294967300]"),
       "the.tensor",
       "expected at most 2147483647"},
      {"FloatDim", shape("[4.9]"), "the.tensor", "shape"},
      {"NegativeDims", shape("[-1,-4]"), "the.tensor", "shape"},
      {"TextDim", shape("[\"4\"]"), "the.tensor", "shape"},
      {"ShapeIsNumber", shape("4"), "the.tensor", "shape"},
      {"Rank9", shape("[1,1,1,1,1,1,1,1,4]"), "the.tensor", "at most 8"},
      {"SizeAgainstShape", shape("[5]"), "the.tensor", "expected 20"},
      {"HalfByte",
       one_tensor(R"("dtype":"F4","shape":[3],"data_offsets":[0,1])", 1),
       "the.tensor",
       "whole number"},
      {"OneOffset", offsets("[0]"), "the.tensor", "two numbers"},
      {"ThreeOffsets", offsets("[0,16,32]"), "the.tensor", "at most 2"},
      {"OffsetsBackwards", offsets("[16,0]"), "the.tensor", "two numbers"},
      {"OffsetIsFloat", offsets("[0,16.5]"), "the.tensor", "data_offsets"},
      {"OffsetIsNegative", offsets("[-16,0]"), "the.tensor", "data_offsets"},
      {"OffsetAbove64Bits",
       offsets("[0,18446744073709551632]"),
       "the.tensor",
       "data_offsets"},
      {"OffsetsNear2To64",
       offsets("[18446744073709551600,18446744073709551615]"),
       "the.tensor",
       "span 15 bytes"},
      {"OffsetsNear2To64OfRightSize",
       offsets("[18446744073709551584,18446744073709551600]"),
       "the.tensor",
       "expected 0"},
      {"PastTheEnd",
       one_tensor(f32_4 + R"(,"data_offsets":[0,16])", 15),
       "the.tensor",
       "truncated"},
      {"TrailingBytes",
       one_tensor(f32_4 + R"(,"data_offsets":[0,16])", 17),
       "",
       "1 bytes after the last tensor"},
      {"FirstOffsetNotZero", offsets("[4,20]"), "the.tensor", "expected 0"},
      {"Overlap", two("[0,8]", "[4,12]"), "the.tensor", "overlap"},
      {"SameBytes", two("[0,8]", "[0,8]"), "tensor", "overlap"},
      {"Gap", two("[0,8]", "[16,24]"), "the.tensor", "expected 8"},
      {"OverlappingEmptyTensor",
       safetensors_bytes(
           R"({"a":{"dtype":"U8","shape":[8],"data_offsets":[0,8]},)"
           R"("the.tensor":{"dtype":"U8","shape":[0],"data_offsets":[4,4]}})",
           8),
       "the.tensor",
       "overlap"},
  };
}

class MalformedSafetensors : public ::testing::TestWithParam<Malformed> {};

TEST_P(MalformedSafetensors, IsRefusedByName) {
  const TempDir dir;
  const auto path = dir.write("bad.safetensors", GetParam().bytes);
  try {
    const SafetensorsFile file(path);
    FAIL() << "was accepted";
  } catch (const FileError& error) {
    EXPECT_EQ(error.path(), path);
    EXPECT_THAT(error.what(), HasSubstr("bad.safetensors"));
    EXPECT_THAT(error.what(), HasSubstr(GetParam().place));
    EXPECT_THAT(error.what(), HasSubstr(GetParam().reason));
    if (GetParam().place == "the.tensor") {
      const auto* typed = dynamic_cast<const TensorError*>(&error);
      ASSERT_NE(typed, nullptr) << error.what();
      EXPECT_EQ(typed->tensor(), "the.tensor");
    }
  }
}

std::string test_name(
    const ::testing::TestParamInfo<MalformedSafetensors::ParamType>& info) {
  return info.param.name;
}

INSTANTIATE_TEST_SUITE_P(
    Header,
    MalformedSafetensors,
    ::testing::ValuesIn(malformed_headers()),
    test_name);
INSTANTIATE_TEST_SUITE_P(
    Tensors,
    MalformedSafetensors,
    ::testing::ValuesIn(malformed_tensors()),
    test_name);

std::string small_file() {
  return safetensors_bytes(
      R"({"__metadata__":{"format":"pt"},)"
      R"("a":{"dtype":"BF16","shape":[2,3],"data_offsets":[0,12]},)"
      R"("b":{"dtype":"U8","shape":[4],"data_offsets":[12,16]}})",
      16);
}

TEST(Safetensors, EveryPrefixIsRefused) {
  const TempDir dir;
  const auto bytes = small_file();
  EXPECT_EQ(open(dir, bytes).tensors().size(), 2u);
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    EXPECT_THROW(open(dir, bytes.substr(0, size)), FileError) << size;
  }
}

TEST(Safetensors, MutationsAreRefusedOrReadWithinTheFile) {
  const TempDir dir;
  const auto bytes = small_file();
  std::mt19937 random(7);
  for (int round = 0; round < 1000; ++round) {
    auto mutated = bytes;
    const auto n_changes = 1 + random() % 3;
    for (std::size_t change = 0; change < n_changes; ++change) {
      mutated[random() % mutated.size()] = static_cast<char>(random());
    }
    try {
      const auto file = open(dir, mutated);
      for (const auto& tensor : file.tensors()) {
        ASSERT_LE(tensor.offset + tensor.n_bytes, mutated.size());
      }
    } catch (const FileError&) {
    }
  }
}

} // namespace
} // namespace qwen3_mlx
