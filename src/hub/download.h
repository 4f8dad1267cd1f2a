// SPDX-License-Identifier: MIT
// One file of a repository into the cache: whole and checked, or not there.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "hub/cache.h"
#include "hub/remote.h"

namespace qwen3_mlx::hub {

struct WantedFile {
  std::string name; ///< In the repository.
  FileInfo info;
};

/// Bytes of a file that the cache has already, finished or not.
std::uint64_t
bytes_there(const Cache& cache, const std::string& repo, const FileInfo& info);

/// Fills blobs/ETAG. Bytes go to "ETAG.incomplete" under the lock that
/// huggingface_hub takes, and on from where an earlier run was stopped; the
/// file gets its name when its size and hash are right. `progress` hears how
/// many bytes are there. Throws HubError and FileError.
void download_blob(
    Remote& remote,
    const Cache& cache,
    const std::string& repo,
    const std::string& commit,
    const WantedFile& file,
    const std::function<void(std::uint64_t n_bytes)>& progress);

} // namespace qwen3_mlx::hub
