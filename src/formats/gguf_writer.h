// SPDX-License-Identifier: MIT
// Where metadata and tensors lie in a GGUF file (version 3) that is to be
// written.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "formats/gguf.h"

namespace qwen3_mlx {

/// Keys and values in the order in which they are added, as the file has them.
class GgufMetadata {
 public:
  void add_uint(std::string_view key, std::uint64_t value); ///< As uint32.
  void add_float(std::string_view key, double value);       ///< As float32.
  void add_bool(std::string_view key, bool value);
  void add_string(std::string_view key, std::string_view value);
  void add_strings(std::string_view key, std::span<const std::string> values);
  void add_ints(std::string_view key, std::span<const std::int32_t> values);

  const std::string& bytes() const {
    return bytes_;
  }
  std::uint64_t size() const {
    return size_;
  }

 private:
  void add_key(std::string_view key, std::uint32_t type);

  std::string bytes_;
  std::uint64_t size_ = 0;
};

struct GgufTensorSpec {
  std::string name;
  GgmlType type;
  std::vector<std::int64_t> shape; ///< Outermost first; rows of whole blocks.

  std::uint64_t n_bytes() const;
};

struct GgufLayout {
  std::string head; ///< All bytes before the first tensor.
  /// Of each tensor, in the order given, from the start of the file.
  std::vector<std::uint64_t> offsets;
  std::uint64_t file_size = 0;
};

GgufLayout layout_gguf(
    const GgufMetadata& metadata,
    std::span<const GgufTensorSpec> tensors);

} // namespace qwen3_mlx
