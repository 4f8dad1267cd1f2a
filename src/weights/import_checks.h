// SPDX-License-Identifier: MIT
// What the importers of other programs' matrices share.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "formats/checked.h"
#include "qwen3_mlx/error.h"
#include "weights/foreign_quantization.h"

namespace qwen3_mlx {

/// Throws a TensorError under the tensor's name in its file.
[[noreturn]] inline void
fail(const StoredTensor& tensor, const std::string& reason) {
  throw TensorError(tensor.path(), printable(tensor.source_name), reason);
}

inline void
expect_type(const StoredTensor& tensor, const std::string& type_name) {
  if (tensor.type_name != type_name) {
    fail(
        tensor, "is stored as " + tensor.type_name + ", expected " + type_name);
  }
}

inline void expect_shape(
    const StoredTensor& tensor,
    const std::vector<std::int64_t>& shape) {
  if (tensor.shape != shape) {
    fail(
        tensor,
        "has shape " + to_string(tensor.shape) + ", expected " +
            to_string(shape));
  }
}

/// All dimensions but the last, multiplied.
inline std::uint64_t rows_of(const std::vector<std::int64_t>& shape) {
  std::uint64_t count = 1;
  for (std::size_t idx = 0; idx + 1 < shape.size(); ++idx) {
    count *= static_cast<std::uint64_t>(shape[idx]);
  }
  return count;
}

/// Modules that have a tensor "<module><leaf>". Throws FileError where there is
/// none, for then config.json tells of something else.
inline std::vector<std::string> modules_with(
    const std::filesystem::path& path,
    const ForeignQuantization& quantization,
    const TensorMap& tensors,
    std::string_view leaf) {
  std::vector<std::string> modules;
  for (const auto& [name, tensor] : tensors) {
    if (name.ends_with(leaf)) {
      modules.push_back(name.substr(0, name.size() - leaf.size()));
    }
  }
  if (modules.empty()) {
    throw FileError(
        path,
        "config.json says " + quantization.name + ", but no tensor is named *" +
            std::string(leaf));
  }
  return modules;
}

} // namespace qwen3_mlx
