// SPDX-License-Identifier: MIT
// Saving what a model has read to a file, to go on from it later.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <vector>

#include "qwen3_mlx/kv_cache.h"
#include "qwen3_mlx/model.h"

namespace qwen3_mlx {

/// A cache and the tokens that it holds.
struct PromptCache {
  std::vector<KVCache> cache;
  std::vector<std::uint32_t> tokens;
};

/// Writes a safetensors file that appears whole or not at all and that only its
/// owner may read, as it holds the prompt. Throws FileError as on a full disk,
/// InvalidArgument when tokens and cache differ in length.
void save_prompt_cache(
    const std::filesystem::path& path,
    const std::vector<KVCache>& cache,
    std::span<const std::uint32_t> tokens,
    const Model& model);

/// Throws FileError when the file is damaged or belongs to another model.
PromptCache
load_prompt_cache(const std::filesystem::path& path, const Model& model);

} // namespace qwen3_mlx
