// SPDX-License-Identifier: MIT
// Tiny random checkpoints, written when a test wants them. Their weights are
// the ones of scripts/tiny_weights.py to the bit, so the goldens that
// tests/goldens/parity/README.md describes hold for them.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace qwen3_mlx::testing {

/// A random tensor: center + scale * u, u uniform in [-1, 1).
struct TinyTensor {
  std::string name;
  std::vector<std::int64_t> shape;
  float center = 0;
  float scale = 0;
};

/// One folder of tests/goldens/parity.
struct TinyCase {
  std::string name;
  /// The checkpoint's config.json.
  std::string config;
  std::uint64_t seed = 0;
  int num_shards = 1;
  std::vector<TinyTensor> tensors;
  std::uint64_t checksum = 0;
  std::vector<std::uint32_t> prompt_ids;
  /// The 64 greedy tokens after the prompt.
  std::vector<std::uint32_t> greedy_ids;
  /// [prompt_ids.size(), vocab_size], row by row.
  std::vector<float> logits;
};

/// The cases of that folder, sorted by name.
std::vector<std::string> tiny_case_names(const std::filesystem::path& goldens);

TinyCase
load_tiny_case(const std::filesystem::path& goldens, std::string_view name);

/// The float32 values of a tensor, row by row.
std::vector<float> tiny_values(const TinyTensor& tensor, std::uint64_t seed);

/// Writes config.json and model.safetensors, or shards and their index.
void write_tiny_checkpoint(
    const TinyCase& tiny_case,
    const std::filesystem::path& folder);

/// What tiny_weights.py calls checksum().
std::uint64_t tiny_checksum(const TinyCase& tiny_case);

} // namespace qwen3_mlx::testing
