// SPDX-License-Identifier: MIT
// Bytes of GGUF and safetensors files, well-formed or not, built field by field
// so that a test can forge any one of them.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

namespace qwen3_mlx::testing {

/// A value's bytes, little-endian.
template <typename T>
std::string bytes_of(T value) {
  std::string out(sizeof(T), '\0');
  std::memcpy(out.data(), &value, sizeof(T));
  return out;
}

/// A safetensors file of that header and that many bytes of data.
inline std::string
safetensors_bytes(std::string_view header, std::size_t n_data_bytes = 0) {
  return bytes_of(std::uint64_t{header.size()}) + std::string(header) +
      std::string(n_data_bytes, '\x01');
}

/// Builds a GGUF file. Counts are those of what was added unless they are
/// given; every part may also be added as raw bytes.
class GgufBuilder {
 public:
  static std::string string(std::string_view text) {
    return bytes_of(std::uint64_t{text.size()}) + std::string(text);
  }

  GgufBuilder& version(std::uint32_t version) {
    version_ = version;
    return *this;
  }
  GgufBuilder& counts(std::uint64_t tensors, std::uint64_t entries) {
    forged_ = true;
    n_tensors_ = tensors;
    n_entries_ = entries;
    return *this;
  }

  /// A metadata entry: its value type and the bytes of its value.
  GgufBuilder&
  entry(std::string_view key, std::uint32_t type, std::string_view value) {
    entries_ += string(key) + bytes_of(type) + std::string(value);
    entry_count_ += 1;
    return *this;
  }
  GgufBuilder& entry(std::string_view key, std::string_view text) {
    return entry(key, 8, string(text));
  }
  GgufBuilder& entry(std::string_view key, std::uint32_t value) {
    return entry(key, 4, bytes_of(value));
  }
  GgufBuilder& entry(std::string_view key, float value) {
    return entry(key, 6, bytes_of(value));
  }

  /// A row of the tensor table; dims innermost first, as in the file.
  GgufBuilder& tensor(
      std::string_view name,
      const std::vector<std::uint64_t>& dims,
      std::uint32_t type,
      std::uint64_t offset) {
    std::string row =
        string(name) + bytes_of(static_cast<std::uint32_t>(dims.size()));
    for (const auto dim : dims) {
      row += bytes_of(dim);
    }
    return raw_tensor(row + bytes_of(type) + bytes_of(offset));
  }
  GgufBuilder& raw_tensor(std::string_view row) {
    tensors_ += row;
    tensor_count_ += 1;
    return *this;
  }

  GgufBuilder& data(std::string_view bytes) {
    data_ = bytes;
    return *this;
  }

  std::string build(std::size_t alignment = 32) const {
    std::string out = "GGUF" + bytes_of(version_) +
        bytes_of(forged_ ? n_tensors_ : tensor_count_) +
        bytes_of(forged_ ? n_entries_ : entry_count_) + entries_ + tensors_;
    out.resize((out.size() + alignment - 1) / alignment * alignment, '\0');
    return out + data_;
  }

 private:
  std::uint32_t version_ = 3;
  bool forged_ = false;
  std::uint64_t n_tensors_ = 0;
  std::uint64_t n_entries_ = 0;
  std::uint64_t tensor_count_ = 0;
  std::uint64_t entry_count_ = 0;
  std::string entries_;
  std::string tensors_;
  std::string data_;
};

} // namespace qwen3_mlx::testing
