// SPDX-License-Identifier: MIT
// A file whose contents a fuzzer replaces in every run.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>

#include "testing/temp_dir.h"

namespace qwen3_mlx::testing {

/// Lives in the system's temporary directory; set TMPDIR to a memory file
/// system for speed.
class FuzzFile {
 public:
  explicit FuzzFile(const std::string& name) : path_(dir_.path() / name) {}

  const std::filesystem::path& write(const std::uint8_t* data, std::size_t n) {
    std::ofstream(path_, std::ios::binary | std::ios::trunc)
        .write(
            reinterpret_cast<const char*>(data),
            static_cast<std::streamsize>(n));
    return path_;
  }
  const TempDir& directory() const {
    return dir_;
  }

 private:
  TempDir dir_;
  std::filesystem::path path_;
};

} // namespace qwen3_mlx::testing
