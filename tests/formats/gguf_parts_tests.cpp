// SPDX-License-Identifier: MIT
#include "formats/gguf_parts.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "qwen3_mlx/error.h"
#include "testing/file_builders.h"
#include "testing/temp_dir.h"

namespace qwen3_mlx {
namespace {

using testing::GgufBuilder;
using ::testing::HasSubstr;
using testing::TempDir;

/// One of `count` parts, with one tensor of one float32.
std::string
part(std::uint32_t number, std::uint32_t count, const std::string& tensor) {
  return GgufBuilder()
      .entry("split.no", number)
      .entry("split.count", count)
      .entry("split.tensors.count", count)
      .tensor(tensor, {1}, 0, 0)
      .data(std::string(4, '\0'))
      .build();
}

TEST(GgufParts, AFileThatIsNotSplitIsItsOwnFirstPart) {
  const TempDir folder;
  const GgufParts parts(folder.write("m.gguf", GgufBuilder().build()));
  EXPECT_EQ(parts.files().size(), 1u);
  EXPECT_EQ(parts.find("a").tensor, nullptr);
  // "split.count" of one, as some writers say.
  const GgufParts one(folder.write("n.gguf", part(0, 1, "a")));
  EXPECT_EQ(one.files().size(), 1u);
}

TEST(GgufParts, TheFirstLeadsToTheOthers) {
  const TempDir folder;
  const auto first = folder.write("m-00001-of-00003.gguf", part(0, 3, "a"));
  folder.write("m-00002-of-00003.gguf", part(1, 3, "b"));
  const auto third = folder.write("m-00003-of-00003.gguf", part(2, 3, "c"));
  const GgufParts parts(first);
  ASSERT_EQ(parts.files().size(), 3u);
  EXPECT_EQ(parts.first().path(), first);
  const auto found = parts.find("c");
  ASSERT_NE(found.tensor, nullptr);
  EXPECT_EQ(found.file->path(), third);
}

void expect_error(
    const std::filesystem::path& path,
    const std::string& field,
    const std::string& reason) {
  try {
    const GgufParts parts(path);
    ADD_FAILURE() << reason << ": was accepted";
  } catch (const FieldError& error) {
    EXPECT_EQ(error.field(), field);
    EXPECT_THAT(error.what(), HasSubstr(reason));
  }
}

TEST(GgufParts, PartsThatDoNotBelongTogetherAreNamed) {
  const TempDir folder;
  const auto first = folder.write("m-00001-of-00002.gguf", part(0, 2, "a"));
  try {
    const GgufParts parts(first);
    ADD_FAILURE() << "a part was missing";
  } catch (const FileError& error) {
    EXPECT_EQ(error.path(), folder.path() / "m-00002-of-00002.gguf");
  }
  const auto second = folder.write("m-00002-of-00002.gguf", part(1, 2, "b"));
  expect_error(second, "split.no", "name the first");
  folder.write("m-00002-of-00002.gguf", part(0, 2, "b"));
  expect_error(first, "split.no", "expected 1 of 2");
  folder.write("m-00002-of-00002.gguf", part(1, 3, "b"));
  expect_error(first, "split.no", "expected 1 of 2");
  folder.write("m-00002-of-00002.gguf", GgufBuilder().build());
  expect_error(first, "split.no", "expected 1 of 2");
  expect_error(
      folder.write("renamed.gguf", part(0, 2, "a")),
      "split.count",
      "-00001-of-00002.gguf");
  expect_error(
      folder.write("many.gguf", part(0, 100'000, "a")),
      "split.count",
      "at most 99999");
  const auto few = folder.write(
      "few-00001-of-00002.gguf",
      GgufBuilder()
          .entry("split.no", 0u)
          .entry("split.count", 2u)
          .entry("split.tensors.count", 7u)
          .build());
  folder.write("few-00002-of-00002.gguf", part(1, 2, "b"));
  expect_error(few, "split.tensors.count", "expected 7 tensors");
}

} // namespace
} // namespace qwen3_mlx
