// SPDX-License-Identifier: MIT
#include "formats/gguf.h"

#include <algorithm>
#include <array>
#include <bit>
#include <unordered_map>
#include <utility>
#include <variant>

#include "formats/checked.h"
#include "formats/gguf_cursor.h"
#include "formats/gguf_tensors.h"
#include "formats/gguf_value.h"
#include "qwen3_mlx/error.h"

namespace qwen3_mlx {
namespace {

using gguf::Cursor;
using gguf::Value;

static_assert(
    std::endian::native == std::endian::little,
    "GGUF files are read in place as little-endian");

// A key is at most 2^16 - 1 bytes by the format's own rule; no file has as many
// of them.
constexpr std::uint64_t max_key_bytes = 65'535;
constexpr std::uint64_t max_entries = 1'000'000;
// Alignments in use are 32 and at most a page.
constexpr std::uint64_t max_alignment = std::uint64_t{1} << 20;

} // namespace

struct GgufFile::Header {
  explicit Header(const std::filesystem::path& path) : file(path) {}

  void read();

  const Value* find(std::string_view key) const {
    const auto found = metadata.find(std::string(key));
    return found == metadata.end() ? nullptr : &found->second;
  }
  [[noreturn]] void wrong_type(
      std::string_view key,
      std::string_view expected,
      const Value& value) const {
    throw FieldError(
        file.path(),
        printable(key),
        "expected " + std::string(expected) + ", found " +
            std::string(gguf::type_name(value)));
  }

  File file;
  std::uint32_t version = 0;
  std::vector<std::string> keys;
  std::unordered_map<std::string, Value> metadata;
  std::vector<GgufTensor> tensors;
  std::unordered_map<std::string, std::size_t> tensor_idx;

 private:
  std::uint64_t alignment() const;
};

void GgufFile::Header::read() {
  const auto& path = file.path();
  Cursor in(file);
  std::array<char, 4> magic{};
  in.bytes(magic.data(), magic.size(), "the magic bytes");
  if (std::string_view(magic.data(), magic.size()) != "GGUF") {
    throw FileError(
        path, "does not start with \"GGUF\", so it is no GGUF file");
  }
  version = in.read<std::uint32_t>("the version");
  if (version != 2 && version != 3) {
    const bool swapped = version != 0 && (version & 0xFFFF) == 0;
    throw FieldError(
        path,
        "version",
        swapped ? "the file is big-endian; convert it to little-endian"
                : "expected 2 or 3, found " + std::to_string(version));
  }
  const auto n_tensors = in.read<std::uint64_t>("the tensor count");
  const auto n_entries = in.read<std::uint64_t>("the metadata count");
  // A tensor takes at least 32 bytes of header, an entry 13.
  if (n_tensors > std::min(max_tensors, in.remaining() / 32)) {
    throw FieldError(
        path,
        "tensor_count",
        std::to_string(n_tensors) + " do not fit, expected at most " +
            std::to_string(std::min(max_tensors, in.remaining() / 32)));
  }
  if (n_entries > std::min(max_entries, in.remaining() / 13)) {
    throw FieldError(
        path,
        "metadata_kv_count",
        std::to_string(n_entries) + " do not fit, expected at most " +
            std::to_string(std::min(max_entries, in.remaining() / 13)));
  }
  for (std::uint64_t idx = 0; idx < n_entries; ++idx) {
    auto key = in.string("a metadata key", max_key_bytes);
    if (key.empty() || !is_valid_utf8(key)) {
      throw FieldError(
          path,
          "metadata key " + std::to_string(idx),
          "is empty or not valid UTF-8 (\"" + printable(key) + "\")");
    }
    auto value = gguf::read_value(in, path, key);
    if (!metadata.emplace(key, std::move(value)).second) {
      throw FieldError(path, printable(key), "occurs twice");
    }
    keys.push_back(std::move(key));
  }
  for (std::uint64_t idx = 0; idx < n_tensors; ++idx) {
    auto tensor = gguf::read_tensor(in, path);
    if (!tensor_idx.emplace(tensor.name, tensors.size()).second) {
      throw TensorError(path, printable(tensor.name), "occurs twice");
    }
    tensors.push_back(std::move(tensor));
  }
  const auto align = alignment();
  const auto data_start = (in.offset() + align - 1) / align * align;
  gguf::place_tensors(tensors, data_start, align, file);
}

std::uint64_t GgufFile::Header::alignment() const {
  const auto* value = find("general.alignment");
  if (value == nullptr) {
    return 32;
  }
  const auto* align = std::get_if<std::uint64_t>(value);
  if (align == nullptr) {
    wrong_type("general.alignment", "an unsigned integer", *value);
  }
  if (!std::has_single_bit(*align) || *align > max_alignment) {
    throw FieldError(
        file.path(),
        "general.alignment",
        "expected a power of two up to " + std::to_string(max_alignment) +
            ", found " + std::to_string(*align));
  }
  return *align;
}

GgufFile::GgufFile(const std::filesystem::path& path) {
  auto header = std::make_unique<Header>(path);
  header->read();
  header_ = std::move(header);
}

GgufFile::~GgufFile() = default;
GgufFile::GgufFile(GgufFile&&) noexcept = default;
GgufFile& GgufFile::operator=(GgufFile&&) noexcept = default;

const File& GgufFile::file() const {
  return header_->file;
}

const std::filesystem::path& GgufFile::path() const {
  return header_->file.path();
}

std::uint32_t GgufFile::version() const {
  return header_->version;
}

const std::vector<GgufTensor>& GgufFile::tensors() const {
  return header_->tensors;
}

const GgufTensor* GgufFile::find(std::string_view name) const {
  const auto found = header_->tensor_idx.find(std::string(name));
  return found == header_->tensor_idx.end() ? nullptr
                                            : &header_->tensors[found->second];
}

const std::vector<std::string>& GgufFile::keys() const {
  return header_->keys;
}

bool GgufFile::has(std::string_view key) const {
  return header_->find(key) != nullptr;
}

std::optional<std::uint64_t> GgufFile::get_uint(std::string_view key) const {
  const auto* value = header_->find(key);
  if (value == nullptr) {
    return std::nullopt;
  }
  if (const auto* number = std::get_if<std::uint64_t>(value)) {
    return *number;
  }
  const auto* number = std::get_if<std::int64_t>(value);
  if (number == nullptr || *number < 0) {
    header_->wrong_type(key, "an integer of 0 or more", *value);
  }
  return static_cast<std::uint64_t>(*number);
}

std::optional<std::int64_t> GgufFile::get_int(std::string_view key) const {
  const auto* value = header_->find(key);
  if (value == nullptr) {
    return std::nullopt;
  }
  if (const auto* number = std::get_if<std::int64_t>(value)) {
    return *number;
  }
  const auto* number = std::get_if<std::uint64_t>(value);
  if (number == nullptr || !std::in_range<std::int64_t>(*number)) {
    header_->wrong_type(key, "an integer below 2^63", *value);
  }
  return static_cast<std::int64_t>(*number);
}

std::optional<double> GgufFile::get_float(std::string_view key) const {
  const auto* value = header_->find(key);
  if (value == nullptr) {
    return std::nullopt;
  }
  if (const auto* number = std::get_if<double>(value)) {
    return *number;
  }
  if (const auto* number = std::get_if<std::uint64_t>(value)) {
    return static_cast<double>(*number);
  }
  const auto* number = std::get_if<std::int64_t>(value);
  if (number == nullptr) {
    header_->wrong_type(key, "a number", *value);
  }
  return static_cast<double>(*number);
}

std::optional<bool> GgufFile::get_bool(std::string_view key) const {
  const auto* value = header_->find(key);
  if (value == nullptr) {
    return std::nullopt;
  }
  const auto* boolean = std::get_if<bool>(value);
  if (boolean == nullptr) {
    header_->wrong_type(key, "a boolean", *value);
  }
  return *boolean;
}

std::optional<std::string> GgufFile::get_string(std::string_view key) const {
  const auto* value = header_->find(key);
  if (value == nullptr) {
    return std::nullopt;
  }
  const auto* text = std::get_if<std::string>(value);
  if (text == nullptr) {
    header_->wrong_type(key, "a string", *value);
  }
  return *text;
}

const std::vector<std::string>*
GgufFile::get_strings(std::string_view key) const {
  const auto* value = header_->find(key);
  if (value == nullptr) {
    return nullptr;
  }
  const auto* strings = std::get_if<std::vector<std::string>>(value);
  if (strings == nullptr) {
    header_->wrong_type(key, "an array of strings", *value);
  }
  return strings;
}

std::optional<std::vector<std::int64_t>>
GgufFile::get_ints(std::string_view key) const {
  const auto* value = header_->find(key);
  if (value == nullptr) {
    return std::nullopt;
  }
  if (const auto* ints = std::get_if<std::vector<std::int64_t>>(value)) {
    return *ints;
  }
  const auto* uints = std::get_if<std::vector<std::uint64_t>>(value);
  if (uints == nullptr) {
    header_->wrong_type(key, "an array of integers", *value);
  }
  std::vector<std::int64_t> ints;
  ints.reserve(uints->size());
  for (const auto number : *uints) {
    if (!std::in_range<std::int64_t>(number)) {
      header_->wrong_type(key, "an array of integers below 2^63", *value);
    }
    ints.push_back(static_cast<std::int64_t>(number));
  }
  return ints;
}

std::optional<std::vector<double>>
GgufFile::get_floats(std::string_view key) const {
  const auto* value = header_->find(key);
  if (value == nullptr) {
    return std::nullopt;
  }
  const auto* floats = std::get_if<std::vector<double>>(value);
  if (floats == nullptr) {
    header_->wrong_type(key, "an array of floats", *value);
  }
  return *floats;
}

bool is_gguf(const std::filesystem::path& path) {
  const File file(path);
  if (file.size() < 4) {
    return false;
  }
  std::array<char, 4> magic{};
  file.read(0, magic.size(), magic.data());
  return std::string_view(magic.data(), magic.size()) == "GGUF";
}

} // namespace qwen3_mlx
