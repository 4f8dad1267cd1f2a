// SPDX-License-Identifier: MIT
// Options of the key/value cache.
#pragma once

#include <optional>

#include <CLI/CLI.hpp>

#include "qwen3_mlx/kv_cache.h"

namespace qwen3_mlx::cli {

struct KvOptions {
  std::optional<int> max_kv_size;
  std::optional<int> kv_bits;
  int kv_group_size = 64;
  int quantized_kv_start = 0;
};

/// `options` must live until the command has run.
void add_kv_options(CLI::App& command, KvOptions& options);

/// Throws CLI::ValidationError for sizes that no cache can have.
CacheOptions cache_options(const KvOptions& options);

} // namespace qwen3_mlx::cli
