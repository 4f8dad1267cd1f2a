// SPDX-License-Identifier: MIT
// A conversion that is killed, or that runs out of space, leaves nothing under
// the target's name.
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <fstream>
#include <functional>
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

std::string bytes_of(const fs::path& file) {
  std::ifstream in(file, std::ios::binary);
  return std::string(std::istreambuf_iterator<char>(in), {});
}

/// Every file below `path` with its bytes, or that file.
Contents contents(const fs::path& path) {
  if (fs::is_regular_file(path)) {
    return {{path.filename().string(), bytes_of(path)}};
  }
  Contents files;
  for (const auto& entry : fs::recursive_directory_iterator(path)) {
    if (entry.is_regular_file()) {
      files[fs::relative(entry.path(), path).string()] = bytes_of(entry.path());
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
  return source;
}

/// A kind of conversion: what it writes, and what is there before it.
struct Way {
  std::string name;
  std::string target;
  std::function<void(const fs::path& from, const fs::path& to, bool force)>
      convert;
  std::function<void(const fs::path& from, const fs::path& to)> convert_old;
};

void to_directory(const fs::path& from, const fs::path& to, bool force) {
  convert_checkpoint(
      from,
      to,
      {.quantize = QuantFormat{QuantMode::affine, 4, 32},
       .force = force,
       .n_threads = 1,
       .max_shard_bytes = 1 << 14});
}

void to_gguf(const fs::path& from, const fs::path& to, bool force) {
  convert_to_gguf(
      from, to, {.type = GgufType::q8_0, .force = force, .n_threads = 1});
}

class Atomicity : public ::testing::TestWithParam<Way> {
 protected:
  /// The conversion in a process of its own. gtest's has no other threads yet.
  static pid_t
  start(const fs::path& from, const fs::path& to, bool force = false);

  fs::path target() const {
    return folder_.path() / "work" / GetParam().target;
  }

  TempDir folder_;
  fs::path source_ = write_source(folder_);
};

pid_t Atomicity::start(const fs::path& from, const fs::path& to, bool force) {
  const pid_t child = ::fork();
  if (child == 0) {
    try {
      GetParam().convert(from, to, force);
    } catch (const std::exception&) {
      ::_exit(1);
    }
    ::_exit(0);
  }
  return child;
}

INSTANTIATE_TEST_SUITE_P(
    Ways,
    Atomicity,
    ::testing::Values(
        Way{"directory",
            "target",
            to_directory,
            [](const auto& from, const auto& to) {
              convert_checkpoint(from, to, {.n_threads = 1});
            }},
        Way{"gguf",
            "target.gguf",
            to_gguf,
            [](const auto& from, const auto& to) {
              convert_to_gguf(from, to, {.n_threads = 1});
            }}),
    [](const auto& way) { return way.param.name; });

TEST_P(Atomicity, KilledAtAnyMomentTheTargetIsAbsentOrComplete) {
  const auto& source = source_;
  const auto target = this->target();
  const auto before = contents(source);
  // The shortest of three: other programs run, too.
  auto duration = std::chrono::steady_clock::duration::max();
  for (int n = 0; n < 3; ++n) {
    fs::remove_all(target);
    const auto begin = std::chrono::steady_clock::now();
    ASSERT_GT(::waitpid(start(source, target), nullptr, 0), 0);
    duration = std::min(duration, std::chrono::steady_clock::now() - begin);
  }
  const auto complete = contents(target);
  ASSERT_GT(complete.size(), GetParam().name == "gguf" ? 0u : 5u);
  fs::remove_all(target);

  std::mt19937 random(11);
  int absent = 0;
  constexpr int runs = 150;
  for (int n = 0; n < runs; ++n) {
    const pid_t child = start(source, target);
    const std::uniform_real_distribution<double> share(0.0, 1.4);
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
  GetParam().convert(source, target, false);
  EXPECT_EQ(contents(target), complete);
  EXPECT_EQ(count_entries(target.parent_path()), 1u);
}

TEST_P(Atomicity, KilledWhileReplacingTheTargetIsTheOldOrTheNew) {
  const auto& source = source_;
  const auto target = this->target();
  GetParam().convert_old(source, target);
  const auto old = contents(target);
  const auto other = folder_.path() / "new" / target.filename();
  GetParam().convert(source, other, false);
  const auto complete = contents(other);
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

TEST_P(Atomicity, AFileThatCannotGrowIsNamedAndAllIsRemoved) {
  const auto& source = source_;
  const auto target = this->target();
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
      GetParam().convert(source, target, false);
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
  EXPECT_THAT(message, HasSubstr(target.string()));
  EXPECT_EQ(count_entries(target.parent_path()), 0u);
}

TEST_P(Atomicity, AnErrorInTheSourceLeavesNothing) {
  const auto& source = source_;
  const auto target = this->target();
  fs::resize_file(
      source / "model.safetensors",
      fs::file_size(source / "model.safetensors") - 1);
  EXPECT_THROW(GetParam().convert(source, target, false), Error);
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

TEST(StagedDirectory, OnlyCheckpointsAndEmptyDirectoriesAreReplaced) {
  const TempDir folder;
  const auto target = folder.path() / "target";
  folder.write("target/config.json", "{}");
  folder.write("target/thesis.txt", "mine");
  try {
    StagedDirectory(target, /* replace */ true);
    FAIL();
  } catch (const FileError& error) {
    EXPECT_THAT(error.what(), HasSubstr("not a checkpoint"));
    EXPECT_THAT(error.what(), HasSubstr("choose another target"));
  }
  EXPECT_EQ(contents(target).size(), 2u);
  EXPECT_EQ(count_entries(folder.path()), 1u);
  {
    // What it becomes while the new one is written counts as well.
    const auto late = folder.path() / "late";
    fs::create_directory(late);
    StagedDirectory directory(late, /* replace */ true);
    folder.write("late/thesis.txt", "mine");
    EXPECT_THROW(directory.publish(), FileError);
    EXPECT_TRUE(fs::exists(late / "thesis.txt"));
  }
  folder.write("target/model.safetensors", "");
  StagedDirectory directory(target, /* replace */ true);
  directory.write_file("a", "1");
  directory.publish();
  EXPECT_EQ(contents(target), (Contents{{"a", "1"}}));
}

TEST(StagedDirectory, OnlyWhatThisProgramLeftBehindIsRemoved) {
  const TempDir folder;
  // Somebody's own directories and files, whose names begin alike.
  for (const auto* name :
       {"target.part-backup/thesis.txt",
        "target.part-abc123/content/thesis.txt",
        "target.part-1/qwen3-mlx-unfinished",
        "target.part-aB-12_/qwen3-mlx-unfinished",
        "target.part-abcdef0/qwen3-mlx-unfinished",
        "target.part-file12"}) {
    folder.write(name, "mine");
  }
  fs::create_directory_symlink(
      "target.part-1", folder.path() / "target.part-link12");
  const auto before = contents(folder.path());
  // And what a killed process leaves, early and late.
  fs::create_directory(folder.path() / "target.part-early1");
  folder.write("target.part-late22/qwen3-mlx-unfinished", "");
  folder.write("target.part-late22/content/model.safetensors", "half");
  for (const auto kind :
       {StagedDirectory::Kind::directory, StagedDirectory::Kind::file}) {
    StagedDirectory(folder.path() / "target", false, kind);
    EXPECT_EQ(contents(folder.path()), before);
    EXPECT_FALSE(fs::exists(folder.path() / "target.part-early1"));
    EXPECT_FALSE(fs::exists(folder.path() / "target.part-late22"));
    EXPECT_TRUE(fs::is_symlink(folder.path() / "target.part-link12"));
    folder.write("target.part-late22/qwen3-mlx-unfinished", "");
    fs::create_directory(folder.path() / "target.part-early1");
  }
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
