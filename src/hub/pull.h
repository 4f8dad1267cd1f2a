// SPDX-License-Identifier: MIT
// Bringing a whole model into the cache.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "hub/reference.h"
#include "hub/settings.h"

namespace qwen3_mlx::hub {

struct FileProgress {
  std::string name;
  std::uint64_t done = 0;
  std::uint64_t total = 0;
};

/// Called from one thread at a time, each time something came.
using PullProgress = std::function<void(const std::vector<FileProgress>&)>;

struct PullOptions {
  PullProgress progress;
  /// Asked from any thread; true stops the pull, which a later one continues.
  std::function<bool()> cancelled;
};

/// Downloads what `reference` needs and is not in the cache, several files at
/// a time. Returns the snapshot's folder, or the file within that `reference`
/// names. The snapshot's links and the ref are made when every file is whole
/// and its hash is right. Throws HubError and FileError.
std::filesystem::path pull(
    const Settings& settings,
    const Reference& reference,
    const PullOptions& options = {});

/// Of a repository's files those that running the model takes: weights in
/// safetensors, configs, tokenizer and templates; or the one file that
/// `reference` names, with its parts. Throws HubError (not_found) that says
/// what the repository holds instead.
std::vector<std::string>
needed_files(const std::vector<std::string>& files, const Reference& reference);

} // namespace qwen3_mlx::hub
