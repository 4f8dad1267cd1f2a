// SPDX-License-Identifier: MIT
#include "formats/gguf_writer.h"

#include <bit>
#include <cstring>
#include <type_traits>

namespace qwen3_mlx {
namespace {

static_assert(
    std::endian::native == std::endian::little,
    "GGUF files are written in this machine's byte order");

constexpr std::uint64_t alignment = 32;

// The format's numbers of value types.
constexpr std::uint32_t type_uint32 = 4;
constexpr std::uint32_t type_int32 = 5;
constexpr std::uint32_t type_float32 = 6;
constexpr std::uint32_t type_bool = 7;
constexpr std::uint32_t type_string = 8;
constexpr std::uint32_t type_array = 9;

template <class T>
void put(std::string& bytes, T value) {
  static_assert(std::is_arithmetic_v<T>);
  char raw[sizeof(T)];
  std::memcpy(raw, &value, sizeof(T));
  bytes.append(raw, sizeof(T));
}

void put_string(std::string& bytes, std::string_view text) {
  put<std::uint64_t>(bytes, text.size());
  bytes += text;
}

std::uint64_t aligned(std::uint64_t offset) {
  return (offset + alignment - 1) / alignment * alignment;
}

} // namespace

void GgufMetadata::add_key(std::string_view key, std::uint32_t type) {
  put_string(bytes_, key);
  put(bytes_, type);
  ++size_;
}

void GgufMetadata::add_uint(std::string_view key, std::uint64_t value) {
  add_key(key, type_uint32);
  put(bytes_, static_cast<std::uint32_t>(value));
}

void GgufMetadata::add_float(std::string_view key, double value) {
  add_key(key, type_float32);
  put(bytes_, static_cast<float>(value));
}

void GgufMetadata::add_bool(std::string_view key, bool value) {
  add_key(key, type_bool);
  put<std::uint8_t>(bytes_, value ? 1 : 0);
}

void GgufMetadata::add_string(std::string_view key, std::string_view value) {
  add_key(key, type_string);
  put_string(bytes_, value);
}

void GgufMetadata::add_strings(
    std::string_view key,
    std::span<const std::string> values) {
  add_key(key, type_array);
  put(bytes_, type_string);
  put<std::uint64_t>(bytes_, values.size());
  for (const auto& value : values) {
    put_string(bytes_, value);
  }
}

void GgufMetadata::add_ints(
    std::string_view key,
    std::span<const std::int32_t> values) {
  add_key(key, type_array);
  put(bytes_, type_int32);
  put<std::uint64_t>(bytes_, values.size());
  for (const auto value : values) {
    put(bytes_, value);
  }
}

std::uint64_t GgufTensorSpec::n_bytes() const {
  const auto block = ggml_block(type);
  std::uint64_t n_elements = 1;
  for (const auto dim : shape) {
    n_elements *= static_cast<std::uint64_t>(dim);
  }
  return n_elements / block.n_elements * block.n_bytes;
}

GgufLayout layout_gguf(
    const GgufMetadata& metadata,
    std::span<const GgufTensorSpec> tensors) {
  constexpr std::uint32_t version = 3;
  GgufLayout layout;
  auto& head = layout.head;
  head = "GGUF";
  put(head, version);
  put<std::uint64_t>(head, tensors.size());
  put(head, metadata.size());
  head += metadata.bytes();
  std::uint64_t offset = 0; // from the first tensor's first byte
  for (const auto& tensor : tensors) {
    put_string(head, tensor.name);
    put(head, static_cast<std::uint32_t>(tensor.shape.size()));
    for (auto dim = tensor.shape.rbegin(); dim != tensor.shape.rend(); ++dim) {
      put(head, static_cast<std::uint64_t>(*dim));
    }
    put(head, static_cast<std::uint32_t>(tensor.type));
    put(head, offset);
    layout.offsets.push_back(offset);
    offset = aligned(offset + tensor.n_bytes());
  }
  head.resize(static_cast<std::size_t>(aligned(head.size())), '\0');
  for (auto& start : layout.offsets) {
    start += head.size();
  }
  layout.file_size = head.size() + offset;
  return layout;
}

} // namespace qwen3_mlx
