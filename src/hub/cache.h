// SPDX-License-Identifier: MIT
// The cache on disk, in the layout of huggingface_hub:
//
//     models--org--name/blobs/ETAG                contents, by their hash
//     models--org--name/refs/REVISION             the commit of a branch or tag
//     models--org--name/snapshots/COMMIT/FILE     links to blobs
//     .locks/models--org--name/ETAG.lock
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "hub/reference.h"

namespace qwen3_mlx::hub {

struct CachedRevision {
  std::string commit;
  std::vector<std::string> refs; ///< Branches and tags that point here.
  std::uint64_t n_bytes = 0;     ///< Of its files, shared ones too.
  bool is_complete = false;      ///< Nothing that is needed to run is missing.
};

struct CachedRepo {
  std::string repo;          ///< "org/name"
  std::uint64_t n_bytes = 0; ///< On disk, unfinished downloads too.
  std::filesystem::file_time_type modified;
  std::vector<CachedRevision> revisions;
};

class Cache {
 public:
  explicit Cache(std::filesystem::path root) : root_(std::move(root)) {}

  const std::filesystem::path& root() const {
    return root_;
  }
  std::filesystem::path repo(const std::string& repo) const;
  std::filesystem::path
  blob(const std::string& repo, const std::string& etag) const;
  std::filesystem::path
  lock(const std::string& repo, const std::string& etag) const;
  std::filesystem::path
  snapshot(const std::string& repo, const std::string& commit) const;

  /// What `revision` stands for; nothing when the cache does not know.
  std::optional<std::string>
  commit_of(const std::string& repo, const std::string& revision) const;

  /// The snapshot, or the file in it, where it is whole.
  std::optional<std::filesystem::path> find(const Reference& reference) const;

  /// Makes snapshots/COMMIT/`file` a link to the blob, in one step.
  void link(
      const std::string& repo,
      const std::string& commit,
      const std::string& file,
      const std::string& etag) const;
  /// In one step; nothing for a revision that is a commit.
  void write_ref(
      const std::string& repo,
      const std::string& revision,
      const std::string& commit) const;

  /// By name.
  std::vector<CachedRepo> list() const;

  /// Removes a repository, or with `only_revision` that revision and what no
  /// other one uses. Returns the bytes it held. Throws HubError (not_found)
  /// for what is not there.
  std::uint64_t remove(const Reference& reference, bool only_revision) const;

 private:
  std::uint64_t remove_revision(const Reference& reference) const;
  std::map<std::string, std::vector<std::string>>
  refs_by_commit(const std::filesystem::path& repo) const;

  std::filesystem::path root_;
};

/// Whether a folder holds a checkpoint of which nothing is missing: a
/// config.json, and all weights that its index names.
bool is_complete_checkpoint(const std::filesystem::path& folder);

/// The files of a model that is stored in parts ("x-00001-of-00003.gguf");
/// {file} for any other.
std::vector<std::string> parts_of(const std::string& file);

} // namespace qwen3_mlx::hub
