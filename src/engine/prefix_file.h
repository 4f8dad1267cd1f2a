// SPDX-License-Identifier: MIT
// The prefix cache in a file, from one run of a server to the next.
#pragma once

#include <filesystem>
#include <string>

#include "engine/block_manager.h"
#include "engine/kv_storage.h"

namespace qwen3_mlx::engine {

/// Writes the blocks that `blocks` can find, whole or not at all. `identity`
/// names all that their contents depend on. Returns how many. Throws FileError.
int save_prefixes(
    const std::filesystem::path& path,
    const std::string& identity,
    const BlockManager& blocks,
    const KvStorage& storage);

/// Makes the blocks of a file findable again, as many as there is room for, the
/// most recently used ones first to stay. Returns how many. Throws FileError,
/// having taken nothing in, when the file was made with another identity, is
/// cut short or damaged.
int load_prefixes(
    const std::filesystem::path& path,
    const std::string& identity,
    BlockManager& blocks,
    KvStorage& storage);

} // namespace qwen3_mlx::engine
