// SPDX-License-Identifier: MIT
#include "hub/cache.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "hub/hub_error.h"
#include "testing/temp_dir.h"

namespace qwen3_mlx::hub {
namespace {

namespace fs = std::filesystem;

const std::string commit_a(40, 'a');
const std::string commit_b(40, 'b');

class CacheTest : public ::testing::Test {
 protected:
  void
  add(const std::string& commit,
      const std::string& file,
      const std::string& etag,
      const std::string& bytes) {
    const auto blob = cache_.blob("o/n", etag);
    fs::create_directories(blob.parent_path());
    std::ofstream(blob) << bytes;
    cache_.link("o/n", commit, file, etag);
  }

  testing::TempDir dir_;
  Cache cache_{dir_.path() / "hub"};
};

TEST_F(CacheTest, LinksAreRelativeAndReplaced) {
  add(commit_a, "config.json", "e1", "{}");
  add(commit_a, "a/b/c.jinja", "e2", "x");
  const auto folder = cache_.snapshot("o/n", commit_a);
  EXPECT_EQ(fs::read_symlink(folder / "config.json"), "../../blobs/e1");
  EXPECT_EQ(fs::read_symlink(folder / "a/b/c.jinja"), "../../../../blobs/e2");
  EXPECT_TRUE(fs::is_regular_file(folder / "a/b/c.jinja"));
  cache_.link("o/n", commit_a, "config.json", "e2");
  EXPECT_EQ(fs::read_symlink(folder / "config.json"), "../../blobs/e2");
}

TEST_F(CacheTest, FindsWholeCheckpointsOnly) {
  EXPECT_FALSE(cache_.find({.repo = "o/n"}));
  cache_.write_ref("o/n", "main", commit_a);
  EXPECT_EQ(cache_.commit_of("o/n", "main"), commit_a);
  EXPECT_FALSE(cache_.find({.repo = "o/n"}));
  add(commit_a, "config.json", "e1", "{}");
  EXPECT_FALSE(cache_.find({.repo = "o/n"}));
  add(commit_a,
      "model.safetensors.index.json",
      "e2",
      R"({"weight_map": {"x": "m1.safetensors", "y": "m2.safetensors"}})");
  add(commit_a, "m1.safetensors", "e3", "");
  EXPECT_FALSE(cache_.find({.repo = "o/n"}));
  add(commit_a, "m2.safetensors", "e4", "");
  EXPECT_EQ(cache_.find({.repo = "o/n"}), cache_.snapshot("o/n", commit_a));
  EXPECT_TRUE(cache_.find({.repo = "o/n", .revision = commit_a}));
  EXPECT_FALSE(cache_.find({.repo = "o/n", .revision = "other"}));
  // A link whose blob is gone is no file.
  fs::remove(cache_.blob("o/n", "e3"));
  EXPECT_FALSE(cache_.find({.repo = "o/n"}));
}

TEST_F(CacheTest, FindsFilesWithAllTheirParts) {
  cache_.write_ref("o/n", "main", commit_a);
  const Reference reference{.repo = "o/n", .file = "m-00001-of-00002.gguf"};
  add(commit_a, "m-00001-of-00002.gguf", "e1", "");
  EXPECT_FALSE(cache_.find(reference));
  add(commit_a, "m-00002-of-00002.gguf", "e2", "");
  EXPECT_TRUE(cache_.find(reference));
}

TEST_F(CacheTest, RefsThatAreNoCommitsCountAsNone) {
  const auto refs = cache_.repo("o/n") / "refs";
  fs::create_directories(refs);
  std::ofstream(refs / "main") << "../../../../etc";
  EXPECT_FALSE(cache_.commit_of("o/n", "main"));
  std::ofstream(refs / "main") << commit_b << "\n";
  EXPECT_EQ(cache_.commit_of("o/n", "main"), commit_b);
}

TEST_F(CacheTest, AnIndexThatLeadsOutsideIsNotWhole) {
  cache_.write_ref("o/n", "main", commit_a);
  add(commit_a, "config.json", "e1", "{}");
  for (const char* index :
       {"x",
        "{}",
        R"({"weight_map": []})",
        R"({"weight_map": {"x": 1}})",
        R"({"weight_map": {"x": "../config.json"}})"}) {
    add(commit_a, "model.safetensors.index.json", "e2", index);
    EXPECT_FALSE(cache_.find({.repo = "o/n"})) << index;
  }
}

TEST_F(CacheTest, ListsAndRemoves) {
  EXPECT_TRUE(cache_.list().empty());
  add(commit_a, "config.json", "e1", "12345");
  add(commit_a, "m.safetensors", "e2", "1234567890");
  add(commit_b, "m.safetensors", "e2", "1234567890");
  cache_.write_ref("o/n", "main", commit_a);
  cache_.write_ref("o/n", "refs/pr/1", commit_b);
  const auto repos = cache_.list();
  ASSERT_EQ(repos.size(), 1U);
  EXPECT_EQ(repos[0].repo, "o/n");
  EXPECT_EQ(repos[0].n_bytes, 15U);
  ASSERT_EQ(repos[0].revisions.size(), 2U);
  EXPECT_TRUE(repos[0].revisions[0].is_complete);
  EXPECT_FALSE(repos[0].revisions[1].is_complete);
  EXPECT_THAT(repos[0].revisions[1].refs, ::testing::ElementsAre("refs/pr/1"));

  // What the other revision uses stays.
  EXPECT_EQ(cache_.remove({.repo = "o/n"}, true), 5U);
  EXPECT_TRUE(fs::exists(cache_.blob("o/n", "e2")));
  EXPECT_FALSE(fs::exists(cache_.blob("o/n", "e1")));
  EXPECT_THROW(cache_.remove({.repo = "o/n"}, true), HubError);
  EXPECT_EQ(cache_.remove({.repo = "o/n"}, false), 10U);
  EXPECT_FALSE(fs::exists(cache_.repo("o/n")));
  EXPECT_THROW(cache_.remove({.repo = "o/n"}, false), HubError);
}

} // namespace
} // namespace qwen3_mlx::hub
