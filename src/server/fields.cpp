// SPDX-License-Identifier: MIT
#include "server/fields.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "server/api_error.h"

namespace qwen3_mlx::server {
namespace {

constexpr int max_depth = 64;

// Objects keep their members in order and look a name up one by one: more would
// take a worker's time.
constexpr int max_object_members = 8192;
constexpr int max_members = 100'000;

struct JsonForm {
  int depth = 0;          // deepest nesting
  int object_members = 0; // most names in one object
  int members = 0;        // names in all
};

// Found before parsing, so that nothing recurses into it.
JsonForm form_of(std::string_view text) {
  JsonForm form;
  std::vector<int> members; // of the objects that are open
  bool in_string = false;
  for (std::size_t at = 0; at < text.size(); ++at) {
    const char c = text[at];
    if (in_string) {
      if (c == '\\') {
        ++at;
      } else if (c == '"') {
        in_string = false;
      }
    } else if (c == '"') {
      in_string = true;
    } else if (c == '[' || c == '{') {
      members.push_back(0);
      form.depth = std::max(form.depth, static_cast<int>(members.size()));
      if (form.depth > max_depth) {
        break;
      }
    } else if (members.empty()) {
      continue; // not JSON, as the parser will say
    } else if (c == ']' || c == '}') {
      members.pop_back();
    } else if (c == ':') {
      ++form.members;
      form.object_members = std::max(form.object_members, ++members.back());
    }
  }
  return form;
}

std::string shown(double value) {
  return to_text(Json(value));
}

} // namespace

Json parse_body(std::string_view body) {
  const auto form = form_of(body);
  if (form.depth > max_depth) {
    throw ApiError(
        400,
        "the body is nested deeper than " + std::to_string(max_depth) +
            " levels");
  }
  if (form.object_members > max_object_members || form.members > max_members) {
    throw ApiError(
        400,
        "the body has objects of " + std::to_string(form.object_members) +
            " fields and " + std::to_string(form.members) +
            " in all; expected at most " + std::to_string(max_object_members) +
            " and " + std::to_string(max_members));
  }
  if (body.find('\0') != std::string_view::npos) {
    throw ApiError(400, "the body is not JSON: it holds a null byte");
  }
  Json json;
  try {
    json = Json::parse(body);
  } catch (const Json::parse_error& error) {
    throw ApiError(
        400,
        "the body is not JSON: at byte " + std::to_string(error.byte) + " of " +
            std::to_string(body.size()));
  } catch (const Json::exception&) { // a number beyond every range
    throw ApiError(400, "the body holds a number that is out of range");
  }
  if (!json.is_object()) {
    throw ApiError(
        400,
        std::string("the body must be a JSON object, found ") + kind_of(json));
  }
  return json;
}

std::string to_text(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

const char* kind_of(const Json& value) {
  switch (value.type()) {
  case Json::value_t::null:
    return "null";
  case Json::value_t::object:
    return "an object";
  case Json::value_t::array:
    return "an array";
  case Json::value_t::string:
    return "a string";
  case Json::value_t::boolean:
    return "a boolean";
  default:
    return "a number";
  }
}

Fields::Fields(const Json& object, std::string prefix)
    : object_(&object), prefix_(std::move(prefix)) {}

std::string Fields::path_of(std::string_view key) const {
  return prefix_.empty() ? std::string(key) : prefix_ + "." + std::string(key);
}

void Fields::fail(std::string_view key, const std::string& why) const {
  const auto path = path_of(key);
  throw ApiError(400, path + ": " + why, path);
}

const Json* Fields::find(std::string_view key) {
  seen_.emplace(key);
  const auto found = object_->find(key);
  return found == object_->end() || found->is_null() ? nullptr : &*found;
}

std::optional<bool> Fields::boolean(std::string_view key) {
  const auto* value = find(key);
  if (value == nullptr) {
    return std::nullopt;
  }
  if (!value->is_boolean()) {
    fail(key, std::string("expected a boolean, found ") + kind_of(*value));
  }
  return value->get<bool>();
}

std::optional<double>
Fields::number(std::string_view key, double min, double max) {
  const auto* value = find(key);
  if (value == nullptr) {
    return std::nullopt;
  }
  if (!value->is_number()) {
    fail(key, std::string("expected a number, found ") + kind_of(*value));
  }
  const double number = value->get<double>();
  if (!(number >= min && number <= max)) {
    fail(
        key,
        "expected a number from " + shown(min) + " to " + shown(max) +
            ", found " + shown(number));
  }
  return number;
}

std::optional<std::int64_t>
Fields::integer(std::string_view key, std::int64_t min, std::int64_t max) {
  const auto* value = find(key);
  if (value == nullptr) {
    return std::nullopt;
  }
  const auto range = "expected an integer from " + std::to_string(min) +
      " to " + std::to_string(max) + ", found ";
  // 3.0 is an integer, as in JSON Schema.
  const bool is_whole = value->is_number_integer() ||
      (value->is_number_float() &&
       std::trunc(value->get<double>()) == value->get<double>() &&
       std::abs(value->get<double>()) < 9e15);
  if (!is_whole) {
    fail(key, range + (value->is_number() ? to_text(*value) : kind_of(*value)));
  }
  const bool is_huge = value->is_number_unsigned() &&
      value->get<std::uint64_t>() > std::uint64_t{INT64_MAX};
  const auto integer = is_huge ? INT64_MAX : value->get<std::int64_t>();
  if (is_huge || integer < min || integer > max) {
    fail(key, range + to_text(*value));
  }
  return integer;
}

std::optional<std::string> Fields::string(std::string_view key) {
  const auto* value = find(key);
  if (value == nullptr) {
    return std::nullopt;
  }
  if (!value->is_string()) {
    fail(key, std::string("expected a string, found ") + kind_of(*value));
  }
  return value->get<std::string>();
}

const Json* Fields::object(std::string_view key) {
  const auto* value = find(key);
  if (value != nullptr && !value->is_object()) {
    fail(key, std::string("expected an object, found ") + kind_of(*value));
  }
  return value;
}

const Json* Fields::array(std::string_view key) {
  const auto* value = find(key);
  if (value != nullptr && !value->is_array()) {
    fail(key, std::string("expected an array, found ") + kind_of(*value));
  }
  return value;
}

void Fields::ignore(std::string_view key) {
  seen_.emplace(key);
}

void Fields::refuse(
    std::string_view key,
    const std::string& why,
    const std::vector<Json>& harmless) {
  const auto* value = find(key);
  if (value != nullptr &&
      std::find(harmless.begin(), harmless.end(), *value) == harmless.end()) {
    fail(key, why);
  }
}

std::vector<std::string> Fields::unknown() const {
  std::vector<std::string> names;
  for (const auto& [key, value] : object_->items()) {
    if (!seen_.contains(key)) {
      names.push_back(path_of(key));
    }
  }
  return names;
}

} // namespace qwen3_mlx::server
