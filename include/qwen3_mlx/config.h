// SPDX-License-Identifier: MIT
// A JSON object from outside, as config.json is, read by typed getters that
// say where a value is wrong and what was expected.
#pragma once

#include <cstdint>
#include <filesystem>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace qwen3_mlx {

/// An immutable JSON object; copies share it. A key whose value is null counts
/// as absent. Getters without a fallback throw FieldError for an absent key;
/// all throw it for a value of another type or out of range. Fields inside an
/// object are named with their path, "rope_scaling.factor".
class Config {
 public:
  /// An empty object that belongs to no file.
  Config();
  /// Parses an object. Throws FileError naming `path` for what is no JSON, is
  /// nested deeper than 64 levels or repeats a key.
  static Config parse(const std::filesystem::path& path, std::string_view text);
  /// Reads a file of at most 64 MiB.
  static Config load(const std::filesystem::path& path);

  const std::filesystem::path& path() const;

  bool has(std::string_view key) const;
  bool is_null(std::string_view key) const;
  bool is_object(std::string_view key) const;
  bool is_array(std::string_view key) const;
  bool is_string(std::string_view key) const;
  bool is_bool(std::string_view key) const;
  bool is_number(std::string_view key) const;

  /// An integer in [min, max]; 3.0 is one, 3.5 is not.
  std::int64_t get_int(
      std::string_view key,
      std::int64_t min = std::numeric_limits<std::int64_t>::min(),
      std::int64_t max = std::numeric_limits<std::int64_t>::max()) const;
  std::int64_t get_int_or(
      std::string_view key,
      std::int64_t fallback,
      std::int64_t min = std::numeric_limits<std::int64_t>::min(),
      std::int64_t max = std::numeric_limits<std::int64_t>::max()) const;
  /// A finite number.
  double get_float(std::string_view key) const;
  double get_float_or(std::string_view key, double fallback) const;
  bool get_bool(std::string_view key) const;
  bool get_bool_or(std::string_view key, bool fallback) const;
  std::string get_string(std::string_view key) const;
  std::string
  get_string_or(std::string_view key, std::string_view fallback) const;
  /// A list of integers, or one integer as a list of one; empty when absent.
  std::vector<std::int64_t> get_ints(
      std::string_view key,
      std::int64_t min = std::numeric_limits<std::int64_t>::min(),
      std::int64_t max = std::numeric_limits<std::int64_t>::max()) const;
  /// A list of strings; empty when absent.
  std::vector<std::string> get_strings(std::string_view key) const;
  /// The object under `key`, which must be there.
  Config sub(std::string_view key) const;
  /// The object under `key`, or nothing when it is absent.
  std::optional<Config> find_sub(std::string_view key) const;

  /// In alphabetical order.
  std::vector<std::string> keys() const;
  /// As JSON, indented by two spaces.
  std::string dump() const;

  /// Throws FieldError for `key` of this object.
  [[noreturn]] void fail(std::string_view key, std::string_view reason) const;

 private:
  struct Node;
  explicit Config(std::shared_ptr<const Node> node);

  std::shared_ptr<const Node> node_;
};

} // namespace qwen3_mlx
