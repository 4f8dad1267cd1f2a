// SPDX-License-Identifier: MIT
// generation_config.json: where generation ends and how the authors sample.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <vector>

namespace qwen3_mlx {

struct ModelArgs;

/// Fields that are absent from the file stay empty.
struct GenerationConfig {
  /// Of generation_config.json, where it names any; else of config.json or the
  /// GGUF metadata, as mlx-lm takes them.
  std::vector<std::uint32_t> eos_token_ids;
  std::optional<float> temperature;
  std::optional<float> top_p;
  std::optional<float> min_p;
  std::optional<int> top_k;
  std::optional<float> repetition_penalty;
  bool do_sample = false;
};

/// Reads `<path>/generation_config.json` if there is one; `args` are the
/// checkpoint's. Throws FieldError for values out of range.
GenerationConfig load_generation_config(
    const std::filesystem::path& path,
    const ModelArgs& args);

} // namespace qwen3_mlx
