// SPDX-License-Identifier: MIT
#include "formats/gguf.h"

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
using testing::GgufBuilder;
using ::testing::HasSubstr;
using testing::TempDir;

// Value types of the format.
constexpr std::uint32_t u8 = 0, i8 = 1, i16 = 3, u32 = 4, i32 = 5, f32 = 6,
                        boolean = 7, text = 8, array = 9, u64 = 10, i64 = 11,
                        f64 = 12;

std::string
array_of(std::uint32_t type, std::uint64_t length, std::string_view values) {
  return bytes_of(type) + bytes_of(length) + std::string(values);
}

GgufFile open(const TempDir& dir, const std::string& bytes) {
  return GgufFile(dir.write("model.gguf", bytes));
}

TEST(Gguf, ReadsMetadataOfEveryType) {
  const TempDir dir;
  for (const std::uint32_t version : {2u, 3u}) {
    const auto file = open(
        dir,
        GgufBuilder()
            .version(version)
            .entry("u8", u8, bytes_of(std::uint8_t{200}))
            .entry("i8", i8, bytes_of(std::int8_t{-5}))
            .entry("i16", i16, bytes_of(std::int16_t{-300}))
            .entry("u32", 7u)
            .entry("f32", 0.5f)
            // A float64 in the middle desynchronizes readers that take 4 bytes.
            .entry("f64", f64, bytes_of(0.25))
            .entry("bool", boolean, bytes_of(std::uint8_t{1}))
            .entry("text", "hello")
            .entry("u64", u64, bytes_of(~std::uint64_t{0}))
            .entry("i64", i64, bytes_of(std::int64_t{-9}))
            .entry(
                "texts",
                array,
                array_of(
                    text,
                    2,
                    GgufBuilder::string("a") + GgufBuilder::string("")))
            .entry(
                "ints",
                array,
                array_of(
                    i32,
                    2,
                    bytes_of(std::int32_t{-1}) + bytes_of(std::int32_t{2})))
            .entry("floats", array, array_of(f32, 1, bytes_of(1.5f)))
            .entry("none", array, array_of(f32, 0, ""))
            .build());
    EXPECT_EQ(file.version(), version);
    EXPECT_EQ(file.get_uint("u8"), 200u);
    EXPECT_EQ(file.get_int("i8"), -5);
    EXPECT_EQ(file.get_int("i16"), -300);
    EXPECT_EQ(file.get_int("u32"), 7);
    EXPECT_EQ(file.get_float("f32"), 0.5);
    EXPECT_EQ(file.get_float("f64"), 0.25);
    EXPECT_EQ(file.get_float("u32"), 7.0);
    EXPECT_EQ(file.get_bool("bool"), true);
    EXPECT_EQ(file.get_string("text"), "hello");
    EXPECT_EQ(file.get_uint("u64"), ~std::uint64_t{0});
    EXPECT_THAT(*file.get_strings("texts"), ElementsAre("a", ""));
    EXPECT_THAT(*file.get_ints("ints"), ElementsAre(-1, 2));
    EXPECT_THAT(*file.get_floats("floats"), ElementsAre(1.5));
    EXPECT_TRUE(file.get_floats("none")->empty());
    EXPECT_EQ(file.get_uint("absent"), std::nullopt);
    EXPECT_EQ(file.get_strings("absent"), nullptr);
    EXPECT_TRUE(file.has("f64"));
    EXPECT_EQ(file.keys().size(), 14u);
    EXPECT_THROW(file.get_uint("i8"), FieldError);
    EXPECT_THROW(file.get_int("u64"), FieldError);
    EXPECT_THROW(file.get_string("u32"), FieldError);
    EXPECT_THROW(file.get_bool("u8"), FieldError);
    EXPECT_THROW(file.get_strings("ints"), FieldError);
    EXPECT_THROW(file.get_float("text"), FieldError);
  }
}

TEST(Gguf, ReadsTensorsInRowMajorShape) {
  const TempDir dir;
  const auto file = open(
      dir,
      GgufBuilder()
          .entry("general.alignment", 64u)
          .tensor("a", {64, 3}, /* q4_0 */ 2, 0)
          .tensor("b", {5}, /* f32 */ 0, 128)
          .data(std::string(148, 'x'))
          .build(64));
  ASSERT_EQ(file.tensors().size(), 2u);
  const auto* a = file.find("a");
  ASSERT_NE(a, nullptr);
  EXPECT_EQ(a->type, GgmlType::q4_0);
  EXPECT_THAT(a->shape, ElementsAre(3, 64));
  EXPECT_EQ(a->n_bytes, 3u * 2 * 18);
  EXPECT_EQ(a->offset % 64, 0u);
  EXPECT_EQ(file.find("b")->offset, a->offset + 128);
  EXPECT_EQ(file.find("c"), nullptr);
  EXPECT_TRUE(is_gguf(file.path()));
}

/// A file that must be refused, and what the message must name.
struct Malformed {
  std::string name;
  std::string bytes;
  std::string place;  ///< The field or tensor.
  std::string reason; ///< Part of the message.
};

std::ostream& operator<<(std::ostream& out, const Malformed& malformed) {
  return out << malformed.name;
}

std::vector<Malformed> malformed_headers() {
  const auto valid = GgufBuilder().entry("key", "value").build();
  return {
      {"Empty", "", "magic", "expected 4 more bytes, found 0"},
      {"WrongMagic", "GGML" + std::string(40, '\0'), "", "no GGUF file"},
      {"OnlyMagic", "GGUF", "version", "truncated"},
      {"Version1", GgufBuilder().version(1).build(), "version", "found 1"},
      {"Version99", GgufBuilder().version(99).build(), "version", "found 99"},
      {"BigEndian",
       GgufBuilder().version(0x03000000).build(),
       "version",
       "big-endian"},
      {"NoCounts", valid.substr(0, 12), "tensor count", "truncated"},
      {"HugeTensorCount",
       GgufBuilder().counts(~0ull, 0).build(),
       "tensor_count",
       "do not fit"},
      {"HugeEntryCount",
       GgufBuilder().counts(0, 1ull << 60).build(),
       "metadata_kv_count",
       "do not fit"},
  };
}

std::vector<Malformed> malformed_metadata() {
  const auto entry = [](std::uint32_t type, std::string_view value) {
    return GgufBuilder().entry("some.key", type, value).build();
  };
  const auto bogus_key = [](std::uint64_t length) {
    return GgufBuilder()
        .counts(0, 1)
        .raw_tensor(bytes_of(length) + std::string(64, 'k'))
        .build();
  };
  return {
      {"KeyLengthPastTheEnd", bogus_key(1ull << 40), "key", "expected at most"},
      {"KeyLengthWraps", bogus_key(~0ull - 7), "key", "expected at most"},
      {"EmptyKey", GgufBuilder().entry("", 1u).build(), "key 0", "empty"},
      {"KeyIsNotUtf8",
       GgufBuilder().entry("\xFF\xFE", 1u).build(),
       "key 0",
       "UTF-8"},
      {"DuplicateKey",
       GgufBuilder().entry("some.key", 1u).entry("some.key", 2u).build(),
       "some.key",
       "twice"},
      {"UnknownValueType", entry(13, "abcd"), "some.key", "unknown"},
      {"HugeValueType", entry(~0u, "abcd"), "some.key", "unknown"},
      {"BoolIsTwo", entry(boolean, "\x02"), "some.key", "found 2"},
      {"StringLengthWraps",
       entry(text, bytes_of(~0ull - 7) + "abc"),
       "some.key",
       "expected at most"},
      {"StringPastTheEnd",
       entry(text, bytes_of(std::uint64_t{1000}) + "abc"),
       "some.key",
       "expected at most"},
      {"ArrayOfUnknownType",
       entry(array, array_of(77, 1, "abcd")),
       "some.key",
       "unknown"},
      {"ArrayInArray",
       entry(array, array_of(array, 1, "abcdefgh")),
       "some.key",
       "array in an array"},
      {"ArrayCountOf2To60",
       entry(array, array_of(text, 1ull << 60, bytes_of(~0ull - 7))),
       "some.key",
       "claims"},
      {"ArrayCountTimesSizeWraps",
       entry(array, array_of(u64, (1ull << 61) + 1, "abcdefgh")),
       "some.key",
       "claims"},
      {"TruncatedFloat64",
       GgufBuilder().entry("some.key", f64, "abc").build(1),
       "some.key",
       "truncated"},
  };
}

std::vector<Malformed> malformed_tensors() {
  const auto one = [](const std::vector<std::uint64_t>& dims,
                      std::uint32_t type,
                      std::uint64_t offset,
                      std::size_t n_bytes) {
    return GgufBuilder()
        .tensor("the.tensor", dims, type, offset)
        .data(std::string(n_bytes, 'x'))
        .build();
  };
  const auto aligned = [](std::uint32_t type, std::string_view value) {
    return GgufBuilder()
        .entry("general.alignment", type, value)
        .tensor("the.tensor", {4}, 0, 0)
        .data("0123456789abcdef")
        .build();
  };
  const auto rank = [](std::uint32_t n_dims) {
    return GgufBuilder()
        .raw_tensor(
            GgufBuilder::string("the.tensor") + bytes_of(n_dims) +
            std::string(100, '\1'))
        .build();
  };
  const auto zero = std::uint32_t{0};
  return {
      {"NameLengthPastTheEnd",
       GgufBuilder()
           .raw_tensor(bytes_of(1ull << 50) + std::string(64, 'n'))
           .build(),
       "tensor's name",
       "expected at most"},
      {"NameLongerThan512",
       GgufBuilder().tensor(std::string(513, 'n'), {1}, 0, 0).build(),
       "tensor's name",
       "expected at most 512"},
      {"EmptyName", GgufBuilder().tensor("", {1}, 0, 0).build(), "tensor ", ""},
      {"Rank9", rank(9), "the.tensor", "9 dimensions"},
      {"Rank0", rank(0), "the.tensor", "0 dimensions"},
      {"HugeRank", rank(~0u), "the.tensor", "dimensions, expected 1 to 8"},
      {"ZeroDim", one({4, 0}, 0, 0, 16), "the.tensor", "dimension 1 is 0"},
      {"DimAboveInt32",
       one({1ull << 32, 1}, 0, 0, 16),
       "the.tensor",
       "expected 1 to 2147483647"},
      {"ElementsWrap",
       one({1u << 30, 1u << 30, 1u << 30}, 0, 0, 16),
       "the.tensor",
       "2^64"},
      {"DeprecatedType4", one({32}, 4, 0, 64), "the.tensor", "type 4"},
      {"DeprecatedType5", one({32}, 5, 0, 64), "the.tensor", "type 5"},
      {"UnknownTypeDoesNotEndTheList",
       GgufBuilder()
           .tensor("a", {4}, 0, 0)
           .tensor("the.tensor", {4}, 99, 32)
           .tensor("c", {4}, 0, 64)
           .data(std::string(96, 'x'))
           .build(),
       "the.tensor",
       "type 99"},
      {"RowIsNoWholeBlock",
       one({33, 2}, 2, 0, 64),
       "the.tensor",
       "multiple of 32"},
      {"BytesWrap",
       one({(1u << 31) - 1, (1u << 31) - 1, 4}, 28, 0, 64),
       "the.tensor",
       "overflows"},
      {"PastTheEnd", one({5}, 0, 0, 16), "the.tensor", "end past the file"},
      {"OffsetWraps",
       one({4}, 0, ~0ull - 31, 16),
       "the.tensor",
       "end past the file"},
      {"OffsetNotAligned", one({4}, 0, 4, 64), "the.tensor", "multiple of"},
      {"Overlap",
       GgufBuilder()
           .tensor("a", {16}, 0, 0)
           .tensor("the.tensor", {4}, 0, 32)
           .data(std::string(64, 'x'))
           .build(),
       "the.tensor",
       "inside tensor a"},
      {"DuplicateName",
       GgufBuilder()
           .tensor("the.tensor", {4}, 0, 0)
           .tensor("the.tensor", {4}, 0, 32)
           .data(std::string(64, 'x'))
           .build(),
       "the.tensor",
       "twice"},
      {"AlignmentZero",
       aligned(u32, bytes_of(zero)),
       "general.alignment",
       "power of two"},
      {"AlignmentNoPowerOfTwo",
       aligned(u32, bytes_of(std::uint32_t{48})),
       "general.alignment",
       "found 48"},
      {"AlignmentHuge",
       aligned(u64, bytes_of(1ull << 63)),
       "general.alignment",
       "power of two"},
      {"AlignmentIsText",
       aligned(text, GgufBuilder::string("32")),
       "general.alignment",
       "found a string"},
  };
}

class MalformedGguf : public ::testing::TestWithParam<Malformed> {};

TEST_P(MalformedGguf, IsRefusedByName) {
  const TempDir dir;
  const auto path = dir.write("bad.gguf", GetParam().bytes);
  try {
    const GgufFile file(path);
    FAIL() << "was accepted";
  } catch (const FileError& error) {
    EXPECT_EQ(error.path(), path);
    EXPECT_THAT(error.what(), HasSubstr("bad.gguf"));
    EXPECT_THAT(error.what(), HasSubstr(GetParam().place));
    EXPECT_THAT(error.what(), HasSubstr(GetParam().reason));
    const bool typed = GetParam().place.empty() ||
        dynamic_cast<const FieldError*>(&error) != nullptr ||
        dynamic_cast<const TensorError*>(&error) != nullptr;
    EXPECT_TRUE(typed) << error.what();
  }
}

std::string
test_name(const ::testing::TestParamInfo<MalformedGguf::ParamType>& info) {
  return info.param.name;
}

INSTANTIATE_TEST_SUITE_P(
    Header,
    MalformedGguf,
    ::testing::ValuesIn(malformed_headers()),
    test_name);
INSTANTIATE_TEST_SUITE_P(
    Metadata,
    MalformedGguf,
    ::testing::ValuesIn(malformed_metadata()),
    test_name);
INSTANTIATE_TEST_SUITE_P(
    Tensors,
    MalformedGguf,
    ::testing::ValuesIn(malformed_tensors()),
    test_name);

std::string small_file() {
  return GgufBuilder()
      .entry("general.architecture", "llama")
      .entry("list", array, array_of(u32, 2, "abcdefgh"))
      .entry("name", "x")
      .tensor("a.weight", {32, 2}, 2, 0)
      .tensor("b.weight", {4}, 0, 64)
      .data(std::string(80, 'x'))
      .build();
}

TEST(Gguf, EveryPrefixIsRefused) {
  const TempDir dir;
  const auto bytes = small_file();
  EXPECT_EQ(open(dir, bytes).tensors().size(), 2u);
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    EXPECT_THROW(open(dir, bytes.substr(0, size)), FileError) << size;
  }
}

TEST(Gguf, MutationsAreRefusedOrReadWithinTheFile) {
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

TEST(Gguf, OpensFilesThatMayNotBeWritten) {
  const TempDir dir;
  const auto path = dir.write("model.gguf", small_file());
  std::filesystem::permissions(path, std::filesystem::perms::owner_read);
  EXPECT_EQ(GgufFile(path).tensors().size(), 2u);
}

} // namespace
} // namespace qwen3_mlx
