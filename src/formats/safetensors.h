// SPDX-License-Identifier: MIT
// Reading and writing safetensors files. The reader accepts what the reference
// implementation does and no more: the tensors tile the data without gap,
// overlap or rest, no name occurs twice, and sizes follow from shapes.
// Source: the format's description in the safetensors repository, README.md.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/file.h"

namespace qwen3_mlx {

/// Element types of the format.
enum class DType {
  boolean,
  u8,
  i8,
  f8_e5m2,
  f8_e4m3,
  f8_e8m0,
  f4,
  f6_e2m3,
  f6_e3m2,
  i16,
  u16,
  f16,
  bf16,
  i32,
  u32,
  f32,
  c64,
  f64,
  i64,
  u64,
};

/// The name in the file, "BF16".
std::string_view dtype_name(DType dtype);
/// Bits of an element; below 8 elements are packed.
std::uint64_t dtype_bits(DType dtype);

/// One tensor of a file.
struct TensorInfo {
  std::string name;
  DType dtype;
  std::vector<std::int64_t> shape; ///< Outermost first; empty for a scalar.
  std::uint64_t offset;            ///< From the start of the file.
  std::uint64_t n_bytes;           ///< All of them lie inside the file.
};

/// An open safetensors file whose header is checked.
class SafetensorsFile {
 public:
  /// Throws FileError, FieldError or TensorError, which name the place.
  explicit SafetensorsFile(const std::filesystem::path& path);

  const File& file() const {
    return file_;
  }
  const std::filesystem::path& path() const {
    return file_.path();
  }
  /// In the order of their bytes.
  const std::vector<TensorInfo>& tensors() const {
    return tensors_;
  }
  /// nullptr when there is none of that name.
  const TensorInfo* find(std::string_view name) const;
  /// "__metadata__"
  const std::map<std::string, std::string>& metadata() const {
    return metadata_;
  }
  /// Gives the open file away; the tensors stay.
  File release_file() {
    return std::move(file_);
  }

 private:
  File file_;
  std::vector<TensorInfo> tensors_;
  std::unordered_map<std::string, std::size_t> tensor_idx_;
  std::map<std::string, std::string> metadata_;
};

/// A tensor to be written: `data` must outlive the call and hold exactly the
/// bytes of its shape.
struct TensorToSave {
  std::string name;
  DType dtype;
  std::vector<std::int64_t> shape;
  std::span<const std::byte> data;
};

/// Writes a file that appears whole or not at all. Throws FileError, and
/// TensorError for a name that occurs twice or data of another size.
void save_safetensors(
    const std::filesystem::path& path,
    std::span<const TensorToSave> tensors,
    const std::map<std::string, std::string>& metadata = {},
    AtomicFile::Access access = AtomicFile::Access::everybody);

} // namespace qwen3_mlx
