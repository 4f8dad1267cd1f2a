// SPDX-License-Identifier: MIT
// A model in one GGUF file, or split over several as llama.cpp's gguf-split
// leaves it: "<name>-00001-of-00003.gguf" and so on, all metadata in the first.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string_view>
#include <vector>

#include "formats/gguf.h"

namespace qwen3_mlx {

class GgufParts {
 public:
  /// `path` is the file, or the first of its parts, whose names lead to the
  /// others. Throws what GgufFile() throws, and FieldError or FileError for a
  /// part that is missing or belongs elsewhere.
  explicit GgufParts(const std::filesystem::path& path);

  /// The one with the metadata.
  const GgufFile& first() const {
    return *files_.front();
  }
  const std::vector<std::shared_ptr<const GgufFile>>& files() const {
    return files_;
  }

  struct Found {
    const GgufFile* file = nullptr;
    const GgufTensor* tensor = nullptr; ///< Null: there is none.
  };
  Found find(std::string_view name) const;

 private:
  void open_others(const std::filesystem::path& path, std::uint64_t count);

  std::vector<std::shared_ptr<const GgufFile>> files_;
};

} // namespace qwen3_mlx
