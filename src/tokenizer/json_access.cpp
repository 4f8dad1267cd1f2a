// SPDX-License-Identifier: MIT
#include "tokenizer/json_access.h"

#include <algorithm>

#include "base/utf8.h"

namespace qwen3_mlx::json {
namespace {

// No tokenizer nests deeper than 6.
constexpr int max_depth = 64;
constexpr std::size_t max_quoted = 80;

/// The number that `raw` begins with, as the file spells it.
std::string quote_number(std::string_view raw) {
  const auto size = raw.find_first_not_of("+-.0123456789Ee");
  return std::string(raw.substr(0, std::min(size, max_quoted)));
}

} // namespace

std::string describe(ondemand::value value, simdjson::error_code error) {
  ondemand::json_type type{};
  if (value.type().get(type) != simdjson::SUCCESS) {
    return "malformed JSON";
  }
  switch (type) {
  case ondemand::json_type::array:
    return "a list";
  case ondemand::json_type::object:
    return "an object";
  case ondemand::json_type::number:
    return "the number " + quote_number(value.raw_json_token());
  case ondemand::json_type::string:
    return error == simdjson::INCORRECT_TYPE ? "a string"
                                             : "a malformed string";
  case ondemand::json_type::boolean:
    return "true or false";
  case ondemand::json_type::null:
    return "null";
  }
  return "malformed JSON";
}

std::string quote(std::string_view text) {
  if (text.size() <= max_quoted) {
    return '"' + std::string(text) + '"';
  }
  const auto size = complete_utf8_prefix(text.substr(0, max_quoted));
  return '"' + std::string(text.substr(0, size)) + "...\"";
}

void skip(
    const std::filesystem::path& file,
    const std::string& field,
    ondemand::value value,
    int depth) {
  const auto name = [&] { return field; };
  if (depth > max_depth) {
    throw FieldError(file, field.substr(0, max_quoted), "nested too deeply");
  }
  ondemand::json_type type{};
  if (value.type().get(type) != simdjson::SUCCESS) {
    throw FieldError(file, field, "malformed JSON");
  }
  switch (type) {
  case ondemand::json_type::object:
    for_each_field(
        file,
        name,
        get_object(file, name, value),
        [&](std::string_view key, ondemand::value inner) {
          skip(file, field + "." + std::string(key), inner, depth + 1);
        });
    break;
  case ondemand::json_type::array:
    for_each_element(
        file,
        name,
        get_array(file, name, value),
        [&](std::size_t idx, ondemand::value inner) {
          skip(file, field + "[" + std::to_string(idx) + "]", inner, depth + 1);
        });
    break;
  case ondemand::json_type::string:
    get_string(file, name, value);
    break;
  case ondemand::json_type::number:
    expect(file, name, "a number", value, value.get_double());
    break;
  case ondemand::json_type::boolean:
    get_bool(file, name, value);
    break;
  case ondemand::json_type::null:
    if (!is_null(file, name, value)) {
      throw FieldError(file, field, "malformed JSON");
    }
    break;
  }
}

} // namespace qwen3_mlx::json
