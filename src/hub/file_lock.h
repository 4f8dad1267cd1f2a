// SPDX-License-Identifier: MIT
// The lock files of huggingface_hub, so that several programs may fill one
// cache.
#pragma once

#include <filesystem>
#include <functional>

namespace qwen3_mlx::hub {

/// Holds flock() on a file. The file stays: removing it would let two
/// processes hold "the same" lock.
class FileLock {
 public:
  /// Makes the file and its folder, and waits until it is free. Throws
  /// HubError (cancelled) when `cancelled` says so meanwhile, and FileError.
  FileLock(
      const std::filesystem::path& path,
      const std::function<bool()>& cancelled);
  ~FileLock();
  FileLock(const FileLock&) = delete;
  FileLock& operator=(const FileLock&) = delete;

 private:
  int fd_ = -1;
};

} // namespace qwen3_mlx::hub
