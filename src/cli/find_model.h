// SPDX-License-Identifier: MIT
// Where the model lies that the user named.
#pragma once

#include <filesystem>

#include "hub/reference.h"
#include "hub/settings.h"

namespace qwen3_mlx::cli {

/// A local path as it is; the name of a repository ("org/name@revision/file")
/// or a short name ("qwen3:4b") as the path of its files in the cache, which
/// are downloaded when they are not there yet. Whatever exists on this disk is
/// a path. Throws what hub::pull() throws.
std::filesystem::path find_model(const std::filesystem::path& model);

/// How the environment says to speak to the hub.
hub::Settings hub_settings();

/// hub::pull() with progress on stderr, stopped by Ctrl-C.
std::filesystem::path
pull_model(const hub::Settings& settings, const hub::Reference& reference);

} // namespace qwen3_mlx::cli
