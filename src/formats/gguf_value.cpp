// SPDX-License-Identifier: MIT
#include "formats/gguf_value.h"

#include <algorithm>
#include <array>
#include <optional>
#include <utility>

namespace qwen3_mlx::gguf {
namespace {

/// Numbers of the metadata value types.
enum class ValueType : std::uint32_t {
  uint8 = 0,
  int8 = 1,
  uint16 = 2,
  int16 = 3,
  uint32 = 4,
  int32 = 5,
  float32 = 6,
  boolean = 7,
  string = 8,
  array = 9,
  uint64 = 10,
  int64 = 11,
  float64 = 12,
};

// Far above what files hold: vocabularies have 2^18 entries, templates 2^14
// bytes.
constexpr std::uint64_t max_string_bytes = std::uint64_t{1} << 26;
constexpr std::uint64_t max_array_length = std::uint64_t{1} << 24;

/// Bytes one element takes at least; 0 for a type that does not exist.
std::uint64_t min_bytes(ValueType type) {
  switch (type) {
  case ValueType::uint8:
  case ValueType::int8:
  case ValueType::boolean:
    return 1;
  case ValueType::uint16:
  case ValueType::int16:
    return 2;
  case ValueType::uint32:
  case ValueType::int32:
  case ValueType::float32:
    return 4;
  case ValueType::string: // its length
  case ValueType::uint64:
  case ValueType::int64:
  case ValueType::float64:
    return 8;
  case ValueType::array:
    return 0; // arrays in arrays are unknown to ggml too
  }
  return 0;
}

[[noreturn]] void bad_value_type(
    const Cursor& in,
    const std::filesystem::path& path,
    const std::string& key,
    ValueType type) {
  throw FieldError(
      path,
      printable(key),
      "value type " + std::to_string(static_cast<std::uint32_t>(type)) +
          " before byte " + std::to_string(in.offset()) +
          " is unknown, expected 0 to 12 and no array in an array");
}

bool read_bool(
    Cursor& in,
    const std::filesystem::path& path,
    const std::string& key) {
  const auto byte = in.read<std::uint8_t>(key);
  if (byte > 1) {
    throw FieldError(
        path,
        printable(key),
        "expected a boolean 0 or 1, found " + std::to_string(byte));
  }
  return byte == 1;
}

std::uint64_t read_uint(Cursor& in, ValueType type, std::string_view key) {
  switch (type) {
  case ValueType::uint8:
    return in.read<std::uint8_t>(key);
  case ValueType::uint16:
    return in.read<std::uint16_t>(key);
  case ValueType::uint32:
    return in.read<std::uint32_t>(key);
  default:
    return in.read<std::uint64_t>(key);
  }
}

std::int64_t read_int(Cursor& in, ValueType type, std::string_view key) {
  switch (type) {
  case ValueType::int8:
    return in.read<std::int8_t>(key);
  case ValueType::int16:
    return in.read<std::int16_t>(key);
  case ValueType::int32:
    return in.read<std::int32_t>(key);
  default:
    return in.read<std::int64_t>(key);
  }
}

double read_float(Cursor& in, ValueType type, std::string_view key) {
  return type == ValueType::float32 ? double{in.read<float>(key)}
                                    : in.read<double>(key);
}

/// Calls `read` for one value, or for each of an array's.
template <typename T, typename Read>
Value read_values(std::optional<std::uint64_t> length, const Read& read) {
  if (!length) {
    return Value(std::in_place_type<T>, read());
  }
  // Grows as bytes are really found, so that a forged length costs nothing.
  std::vector<T> values;
  for (std::uint64_t idx = 0; idx < *length; ++idx) {
    values.push_back(read());
  }
  return values;
}

} // namespace

Value read_value(
    Cursor& in,
    const std::filesystem::path& path,
    const std::string& key) {
  auto type = in.read<ValueType>(key);
  std::optional<std::uint64_t> length;
  if (type == ValueType::array) {
    type = in.read<ValueType>(key);
    length = in.read<std::uint64_t>(key);
    const auto each = min_bytes(type);
    if (each == 0) {
      bad_value_type(in, path, key, type);
    }
    if (*length > max_array_length || *length > in.remaining() / each) {
      throw FieldError(
          path,
          printable(key),
          "array before byte " + std::to_string(in.offset()) + " claims " +
              std::to_string(*length) + " values, expected at most " +
              std::to_string(
                  std::min(max_array_length, in.remaining() / each)));
    }
  }
  switch (type) {
  case ValueType::uint8:
  case ValueType::uint16:
  case ValueType::uint32:
  case ValueType::uint64:
    return read_values<std::uint64_t>(
        length, [&] { return read_uint(in, type, key); });
  case ValueType::int8:
  case ValueType::int16:
  case ValueType::int32:
  case ValueType::int64:
    return read_values<std::int64_t>(
        length, [&] { return read_int(in, type, key); });
  case ValueType::float32:
  case ValueType::float64:
    return read_values<double>(
        length, [&] { return read_float(in, type, key); });
  case ValueType::boolean:
    return read_values<bool>(length, [&] { return read_bool(in, path, key); });
  case ValueType::string:
    return read_values<std::string>(
        length, [&] { return in.string(key, max_string_bytes); });
  case ValueType::array:
    break;
  }
  bad_value_type(in, path, key, type);
}

std::string_view type_name(const Value& value) {
  static constexpr std::array<std::string_view, 10> names = {
      "an unsigned integer",
      "an integer",
      "a float",
      "a boolean",
      "a string",
      "an array of unsigned integers",
      "an array of integers",
      "an array of floats",
      "an array of booleans",
      "an array of strings"};
  return names[value.index()];
}

} // namespace qwen3_mlx::gguf
