// SPDX-License-Identifier: MIT
// Typed reads of simdjson's on-demand values. A wrong type is a FieldError
// with the JSON path, which is only built when it is needed.
#pragma once

#include <simdjson.h>

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

#include "qwen3_mlx/error.h"

namespace qwen3_mlx::json {

namespace ondemand = simdjson::ondemand;

/// What `value` is, where reading it as something else gave `error`: "a list",
/// "the number 1.5", "a malformed string", ...
std::string describe(ondemand::value value, simdjson::error_code error);

/// A string for an error message: quoted, and cut when long.
std::string quote(std::string_view text);

/// Reads every part of a value that has no meaning here, so that broken or
/// bottomless JSON is found in it, too.
void skip(
    const std::filesystem::path& file,
    const std::string& field,
    ondemand::value value,
    int depth = 0);

/// What simdjson found, or a FieldError at field().
template <typename Result, typename Field>
auto expect(
    const std::filesystem::path& file,
    Field field,
    std::string_view expected,
    ondemand::value value,
    Result result) {
  if (result.error() != simdjson::SUCCESS) {
    throw FieldError(
        file,
        field(),
        "expected " + std::string(expected) + ", found " +
            describe(value, result.error()));
  }
  return result.value_unsafe();
}

template <typename Field>
std::string_view get_string(
    const std::filesystem::path& file,
    Field field,
    ondemand::value value) {
  return expect(file, field, "a string", value, value.get_string());
}

/// As get_string(), without a copy where the string holds no escape; the view
/// then lies in the file's text.
template <typename Field>
std::string_view get_token(
    const std::filesystem::path& file,
    Field field,
    ondemand::value value) {
  const std::string_view raw = value.raw_json_token();
  // The text between quotes: broken strings have not passed the parser so far.
  std::size_t end = 1;
  while (end < raw.size() && raw[end] != '"' && raw[end] != '\\') {
    ++end;
  }
  if (raw.front() != '"' || end >= raw.size() || raw[end] != '"') {
    return get_string(file, field, value);
  }
  ondemand::raw_json_string consumed;
  if (value.get_raw_json_string().get(consumed) != simdjson::SUCCESS) {
    return get_string(file, field, value);
  }
  return raw.substr(1, end - 1);
}

template <typename Field>
bool get_bool(
    const std::filesystem::path& file,
    Field field,
    ondemand::value value) {
  return expect(file, field, "true or false", value, value.get_bool());
}

/// Whether the value is null; broken JSON that begins as null does is an error.
template <typename Field>
bool is_null(
    const std::filesystem::path& file,
    Field field,
    ondemand::value value) {
  return expect(file, field, "null", value, value.is_null());
}

template <typename Field>
ondemand::object get_object(
    const std::filesystem::path& file,
    Field field,
    ondemand::value value) {
  return expect(file, field, "an object", value, value.get_object());
}

template <typename Field>
ondemand::array get_array(
    const std::filesystem::path& file,
    Field field,
    ondemand::value value) {
  return expect(file, field, "a list", value, value.get_array());
}

/// A token id: an integer from 0 to `last`.
template <typename Field>
std::uint32_t get_id(
    const std::filesystem::path& file,
    Field field,
    ondemand::value value,
    std::uint32_t last) {
  const auto result = value.get_uint64();
  if (result.error() != simdjson::SUCCESS || result.value_unsafe() > last) {
    throw FieldError(
        file,
        field(),
        "expected a token id from 0 to " + std::to_string(last) + ", found " +
            (result.error() == simdjson::SUCCESS
                 ? std::to_string(result.value_unsafe())
                 : describe(value, result.error())));
  }
  return static_cast<std::uint32_t>(result.value_unsafe());
}

/// Calls on_field(key, value) for each field of an object.
template <typename Field, typename OnField>
void for_each_field(
    const std::filesystem::path& file,
    Field field,
    ondemand::object object,
    OnField on_field) {
  for (auto entry : object) {
    std::string_view key;
    ondemand::value value;
    if (entry.unescaped_key().get(key) != simdjson::SUCCESS ||
        entry.value().get(value) != simdjson::SUCCESS) {
      throw FieldError(file, field(), "malformed JSON in this object");
    }
    on_field(key, value);
  }
}

/// Calls on_element(index, value) for each element of a list.
template <typename Field, typename OnElement>
void for_each_element(
    const std::filesystem::path& file,
    Field field,
    ondemand::array array,
    OnElement on_element) {
  std::size_t idx = 0;
  for (auto element : array) {
    ondemand::value value;
    if (element.get(value) != simdjson::SUCCESS) {
      throw FieldError(file, field(), "malformed JSON in this list");
    }
    on_element(idx++, value);
  }
}

} // namespace qwen3_mlx::json
