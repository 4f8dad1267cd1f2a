// SPDX-License-Identifier: MIT
// The tensors of one packed matrix, on their way from the names of another
// program to ours.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "weights/foreign_quantization.h"

namespace qwen3_mlx {

/// Of the module "<name>": takes its parts out of a map of tensors and puts
/// what they mean back. Holds references to both arguments.
class ImportModule {
 public:
  ImportModule(
      const std::filesystem::path& path,
      TensorMap& tensors,
      std::string name);

  /// Removes "<name><leaf>" from the map; nothing where it is not there.
  std::optional<StoredTensor> find(const std::string& leaf);
  /// As find(). Throws TensorError where it is not there.
  StoredTensor take(const std::string& leaf);
  /// Throws TensorError where "<name><leaf>" is there already.
  void add(const std::string& leaf, StoredTensor tensor);
  /// Adds "<name>.weight", a matrix of that shape whose numbers are `rows`.
  /// Its pieces are those of `packed`, its largest part.
  void add_rows(
      StoredTensor packed,
      std::vector<std::int64_t> shape,
      std::shared_ptr<const RowSource> rows);

 private:
  const std::filesystem::path& path_;
  TensorMap& tensors_;
  std::string name_;
};

} // namespace qwen3_mlx
