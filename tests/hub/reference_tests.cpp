// SPDX-License-Identifier: MIT
#include "hub/reference.h"

#include <gtest/gtest.h>

namespace qwen3_mlx::hub {
namespace {

void expect_reference(
    std::string_view text,
    const std::string& repo,
    const std::string& revision,
    const std::string& file) {
  const auto reference = parse_reference(text);
  ASSERT_TRUE(reference) << text;
  EXPECT_EQ(reference->repo, repo) << text;
  EXPECT_EQ(reference->revision, revision) << text;
  EXPECT_EQ(reference->file, file) << text;
}

TEST(Reference, Forms) {
  expect_reference("Qwen/Qwen3-4B", "Qwen/Qwen3-4B", "main", "");
  expect_reference("hf://Qwen/Qwen3-4B", "Qwen/Qwen3-4B", "main", "");
  expect_reference("Qwen/Qwen3-4B@v1.0", "Qwen/Qwen3-4B", "v1.0", "");
  expect_reference("a/b@refs/pr/12", "a/b", "refs/pr/12", "");
  expect_reference("a/b@refs/pr/12/x.gguf", "a/b", "refs/pr/12", "x.gguf");
  expect_reference("a/b@feature%2Fx/y/z", "a/b", "feature/x", "y/z");
  expect_reference(
      "a/b/q4/m-00001-of-00002.gguf",
      "a/b",
      "main",
      "q4/m-00001-of-00002.gguf");
  expect_reference("a/b@main/config.json", "a/b", "main", "config.json");
  expect_reference("qwen3:4b", "mlx-community/Qwen3-4B-4bit", "main", "");
}

TEST(Reference, WayBack) {
  for (const std::string text : {"a/b", "a/b@v1", "a/b/c.gguf", "a/b@v1/c/d"}) {
    EXPECT_EQ(to_string(*parse_reference(text)), text);
  }
}

TEST(Reference, PathsAreNone) {
  for (const std::string_view text :
       {"",           "model",     "./a/b",
        "../a/b",     "/a/b",      "~/a",
        "a//b",       "a/b/",      "a/.b",
        "a/b.",       "-a/b",      "a/b--c",
        "a/b..c",     "a/b@",      "a/b@../c",
        "a/b@x/../y", "a/b/../c",  "a/b/./c",
        "a/b\\c",     "a b/c",     "dir/model.gguf",
        "qwen3:1b",   "a/b@main/", "hf://",
        "hf://a",     "a/b@%2F",   "a/b@x%2F..%2Fy"}) {
    EXPECT_FALSE(parse_reference(text)) << text;
  }
  EXPECT_FALSE(parse_reference("a/" + std::string(97, 'b')));
  EXPECT_FALSE(parse_reference(std::string("a/b\nc")));
}

TEST(Reference, SafePathsStayInside) {
  for (const std::string_view path :
       {"a", "a/b", "a.b/c-d_e", "..a", "a..", "é"}) {
    EXPECT_TRUE(is_safe_path(path)) << path;
  }
  for (const std::string_view path :
       {"",
        "/",
        "/a",
        "a/",
        "a//b",
        ".",
        "..",
        "./a",
        "a/..",
        "a/../b",
        "a\\b",
        "a\nb",
        "\x7f"}) {
    EXPECT_FALSE(is_safe_path(path)) << path;
  }
  EXPECT_FALSE(is_safe_path(std::string_view("a\0b", 3)));
  EXPECT_FALSE(is_safe_path(std::string(1025, 'a')));
  EXPECT_FALSE(is_safe_path(std::string(256, 'a')));
}

TEST(Reference, ShortNamesAreReferences) {
  for (const auto& [name, repo] : short_names()) {
    EXPECT_EQ(name.find('/'), std::string_view::npos) << name;
    ASSERT_TRUE(parse_reference(repo)) << repo;
    EXPECT_EQ(parse_reference(name)->repo, repo);
  }
}

} // namespace
} // namespace qwen3_mlx::hub
