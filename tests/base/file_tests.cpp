// SPDX-License-Identifier: MIT
#include "base/file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include "qwen3_mlx/error.h"
#include "testing/temp_dir.h"

namespace qwen3_mlx {
namespace {

using ::testing::HasSubstr;

TEST(File, ReadsByPosition) {
  const testing::TempDir dir;
  const auto path = dir.write("a", "0123456789");
  const File file(path);
  EXPECT_EQ(file.size(), 10u);
  char bytes[3];
  file.read(4, 3, bytes);
  EXPECT_EQ(std::string(bytes, 3), "456");
}

TEST(File, TruncationAfterOpeningIsAnError) {
  const testing::TempDir dir;
  const auto path = dir.write("a", "0123456789");
  const File file(path);
  std::filesystem::resize_file(path, 5);
  char bytes[10];
  try {
    file.read(0, 10, bytes);
    FAIL();
  } catch (const FileError& error) {
    EXPECT_EQ(error.path(), path);
    EXPECT_THAT(error.what(), HasSubstr("ends at byte 5"));
  }
}

TEST(File, RefusesWhatIsNotARegularFile) {
  const testing::TempDir dir;
  EXPECT_THROW(File{dir.path()}, FileError);
  EXPECT_THROW(File{dir.path() / "absent"}, FileError);
  const auto fifo = dir.path() / "fifo";
  ASSERT_EQ(::mkfifo(fifo.c_str(), 0600), 0);
  EXPECT_THROW(File{fifo}, FileError);
}

TEST(File, ReadFileIsBounded) {
  const testing::TempDir dir;
  const auto path = dir.write("a", "0123456789");
  EXPECT_EQ(read_file(path), "0123456789");
  EXPECT_THROW(read_file(path, 9), FileError);
}

TEST(AtomicFile, AppearsOnlyWhenCommitted) {
  const testing::TempDir dir;
  const auto path = dir.path() / "out";
  {
    AtomicFile file(path);
    file.write("half");
  }
  EXPECT_TRUE(std::filesystem::is_empty(dir.path()));
  {
    AtomicFile file(path);
    file.write("who");
    file.write("le");
    file.commit();
  }
  EXPECT_EQ(read_file(path), "whole");
  EXPECT_THROW(AtomicFile(dir.path() / "no" / "such"), FileError);
}

} // namespace
} // namespace qwen3_mlx
