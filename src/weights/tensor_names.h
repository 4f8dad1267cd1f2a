// SPDX-License-Identifier: MIT
// One set of names for what Hugging Face and mlx-community call differently.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "weights/checkpoint.h"

namespace qwen3_mlx {

/// A tensor under the name its file has.
struct NamedTensor {
  std::string file_name;
  StoredTensor tensor;
};

/// By canonical name (see Checkpoint::tensors): prefixes of multimodal and of
/// headless checkpoints are normalized, experts stacked, a fused gate_up_proj
/// split, and "rotary_emb.inv_freq", which can be computed, dropped. Throws
/// TensorError for an expert that is missing or differs from the others, and
/// for two tensors that mean the same.
std::map<std::string, StoredTensor, std::less<>> canonical_tensors(
    const std::filesystem::path& directory,
    std::vector<NamedTensor> tensors);

} // namespace qwen3_mlx
