// SPDX-License-Identifier: MIT
// Where tensors lie in a safetensors file that is to be written.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "formats/safetensors.h"

namespace qwen3_mlx {

struct TensorSpec {
  std::string name;
  DType dtype;
  std::vector<std::int64_t> shape;

  std::uint64_t n_bytes() const;
};

struct SafetensorsLayout {
  std::string head; ///< All bytes before the first tensor.
  /// Of each tensor, in the order given, from the start of the file.
  std::vector<std::uint64_t> offsets;
  std::uint64_t file_size = 0;
};

/// Wide elements come first, so that every tensor is aligned to its element.
/// Throws TensorError for a name that occurs twice.
SafetensorsLayout layout_safetensors(
    const std::filesystem::path& path,
    std::span<const TensorSpec> tensors,
    const std::map<std::string, std::string>& metadata);

} // namespace qwen3_mlx
