// SPDX-License-Identifier: MIT
// A conversion that is killed, or that runs out of space, leaves nothing under
// the target's name.
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <fstream>
#include <iterator>
#include <map>
#include <random>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/staged_directory.h"
#include "qwen3_mlx/convert.h"
#include "qwen3_mlx/error.h"
#include "testing/temp_dir.h"
#include "testing/tiny_checkpoint.h"

namespace qwen3_mlx {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using testing::TempDir;

using Contents = std::map<std::string, std::string>;

/// Every file below `folder` with its bytes.
Contents contents(const fs::path& folder) {
  Contents files;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    if (entry.is_regular_file()) {
      std::ifstream in(entry.path(), std::ios::binary);
      files[fs::relative(entry.path(), folder).string()] =
          std::string(std::istreambuf_iterator<char>(in), {});
    }
  }
  return files;
}

std::size_t count_entries(const fs::path& folder) {
  return static_cast<std::size_t>(
      std::distance(fs::directory_iterator(folder), {}));
}

fs::path write_source(const TempDir& folder) {
  const auto goldens = fs::path(QWEN3_MLX_TEST_DATA) / "parity";
  const auto golden = testing::load_tiny_case(goldens, "qwen2-default");
  const auto source = folder.path() / "source";
  fs::create_directory(source);
  testing::write_tiny_checkpoint(golden, source);
  folder.write("source/tokenizer.json", std::string(100'000, ' '));
  return source;
}

const ConvertOptions options{
    .quantize = QuantFormat{QuantMode::affine, 4, 32},
    .n_threads = 1,
    .max_shard_bytes = 1 << 14};

/// The conversion in a process of its own. gtest's has no other threads yet.
pid_t start(const fs::path& from, const fs::path& to, bool force = false) {
  const pid_t child = ::fork();
  if (child == 0) {
    auto own = options;
    own.force = force;
    try {
      convert_checkpoint(from, to, own);
    } catch (const std::exception&) {
      ::_exit(1);
    }
    ::_exit(0);
  }
  return child;
}

TEST(Atomicity, KilledAtAnyMomentTheTargetIsAbsentOrComplete) {
  const TempDir folder;
  const auto source = write_source(folder);
  const auto target = folder.path() / "work" / "target";
  const auto before = contents(source);
  const auto begin = std::chrono::steady_clock::now();
  ASSERT_EQ(::waitpid(start(source, target), nullptr, 0) > 0, true);
  const auto duration = std::chrono::steady_clock::now() - begin;
  const auto complete = contents(target);
  ASSERT_GT(complete.size(), 5u);
  fs::remove_all(target);

  std::mt19937 random(11);
  int absent = 0;
  constexpr int runs = 150;
  for (int n = 0; n < runs; ++n) {
    const pid_t child = start(source, target);
    const std::uniform_real_distribution<double> share(0.0, 1.1);
    auto wait = share;
    std::this_thread::sleep_for(duration * wait(random));
    ::kill(child, SIGKILL);
    ::waitpid(child, nullptr, 0);
    if (!fs::exists(target)) {
      ++absent;
      continue;
    }
    EXPECT_EQ(contents(target), complete);
    fs::remove_all(target);
  }
  // Both ends were met, or the moments say nothing.
  EXPECT_GT(absent, runs / 10);
  EXPECT_LT(absent, runs);
  EXPECT_EQ(contents(source), before);
  // What was left behind goes with the next run.
  convert_checkpoint(source, target, options);
  EXPECT_EQ(contents(target), complete);
  EXPECT_EQ(count_entries(target.parent_path()), 1u);
}

TEST(Atomicity, KilledWhileReplacingTheTargetIsTheOldOrTheNew) {
  const TempDir folder;
  const auto source = write_source(folder);
  const auto target = folder.path() / "work" / "target";
  convert_checkpoint(source, target, {.n_threads = 1});
  const auto old = contents(target);
  convert_checkpoint(source, folder.path() / "new" / "target", options);
  const auto complete = contents(folder.path() / "new" / "target");
  ASSERT_NE(old, complete);
  std::mt19937 random(13);
  for (int n = 0; n < 40; ++n) {
    const pid_t child = start(source, target, /* force */ true);
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 40'000));
    ::kill(child, SIGKILL);
    ::waitpid(child, nullptr, 0);
    const auto found = contents(target);
    EXPECT_TRUE(found == old || found == complete);
  }
}

TEST(Atomicity, AFileThatCannotGrowIsNamedAndAllIsRemoved) {
  const TempDir folder;
  const auto source = write_source(folder);
  const auto target = folder.path() / "work" / "target";
  // As a full disk: files end at 8 KiB. In a child, for the limit is its own.
  int report[2];
  ASSERT_EQ(::pipe(report), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    std::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{8192, 8192};
    ::setrlimit(RLIMIT_FSIZE, &limit);
    std::string message = "no error";
    try {
      convert_checkpoint(source, target, options);
    } catch (const FileError& error) {
      message = error.what();
    } catch (...) {
      message = "another error";
    }
    const auto written = ::write(report[1], message.data(), message.size());
    ::_exit(written > 0 ? 0 : 1);
  }
  ::waitpid(child, nullptr, 0);
  ::close(report[1]);
  std::string message(4096, '\0');
  const auto n_bytes = ::read(report[0], message.data(), message.size());
  ::close(report[0]);
  message.resize(static_cast<std::size_t>(std::max<ssize_t>(n_bytes, 0)));
  EXPECT_THAT(message, HasSubstr("cannot write"));
  EXPECT_THAT(message, HasSubstr(target.string() + "/"));
  EXPECT_EQ(count_entries(target.parent_path()), 0u);
}

TEST(Atomicity, AnErrorInTheSourceLeavesNothing) {
  const TempDir folder;
  const auto source = write_source(folder);
  const auto target = folder.path() / "work" / "target";
  fs::resize_file(
      source / "model.safetensors",
      fs::file_size(source / "model.safetensors") - 1);
  EXPECT_THROW(convert_checkpoint(source, target, options), Error);
  EXPECT_FALSE(fs::exists(target));
}

TEST(StagedDirectory, RefusesATargetThatIsThere) {
  const TempDir folder;
  const auto target = folder.path() / "target";
  folder.write("target/file", "old");
  try {
    StagedDirectory(target, /* replace */ false);
    FAIL();
  } catch (const FileError& error) {
    EXPECT_THAT(error.what(), HasSubstr("--force"));
  }
  folder.write("a_file", "old");
  EXPECT_THROW(
      StagedDirectory(folder.path() / "a_file", /* replace */ true), FileError);
  EXPECT_THROW(StagedDirectory(folder.path() / "..", true), FileError);
}

TEST(StagedDirectory, WhatALivingProcessWritesIsNotRemoved) {
  const TempDir folder;
  const auto target = folder.path() / "target";
  StagedDirectory first(target, false);
  first.write_file("a", "1");
  {
    StagedDirectory second(target, false);
    second.write_file("a", "2");
  }
  first.publish();
  EXPECT_EQ(contents(target), (Contents{{"a", "1"}}));
}

TEST(StagedDirectory, ASecondWriterDoesNotReplaceTheFirst) {
  const TempDir folder;
  const auto target = folder.path() / "target";
  StagedDirectory first(target, false);
  StagedDirectory second(target, false);
  first.write_file("a", "1");
  second.write_file("a", "2");
  first.publish();
  EXPECT_THROW(second.publish(), FileError);
  EXPECT_EQ(contents(target), (Contents{{"a", "1"}}));
}

} // namespace
} // namespace qwen3_mlx
