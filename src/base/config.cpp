// SPDX-License-Identifier: MIT
#include "qwen3_mlx/config.h"

#include <cmath>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "base/file.h"
#include "qwen3_mlx/error.h"

namespace qwen3_mlx {
namespace {

using Json = nlohmann::json;

constexpr int max_depth = 64;
constexpr std::uint64_t max_config_bytes = std::uint64_t{1} << 26;

/// Throws for what the parser alone lets pass: deep nesting, which costs memory
/// without end, and repeated keys, of which it would silently keep one.
class Guard {
 public:
  explicit Guard(const std::filesystem::path& path) : path_(path) {}

  bool operator()(int depth, Json::parse_event_t event, const Json& parsed) {
    using Event = Json::parse_event_t;
    if (depth > max_depth) {
      throw FileError(
          path_,
          "is nested deeper than " + std::to_string(max_depth) + " levels");
    }
    if (event == Event::object_start) {
      keys_.emplace_back();
    } else if (event == Event::object_end) {
      keys_.pop_back();
    } else if (event == Event::key) {
      const auto& key = parsed.get_ref<const std::string&>();
      if (!keys_.back().insert(key).second) {
        throw FieldError(path_, key, "occurs twice in one object");
      }
    }
    return true;
  }

 private:
  const std::filesystem::path& path_;
  std::vector<std::set<std::string>> keys_;
};

Json parse_json(const std::filesystem::path& path, std::string_view text) {
  try {
    Guard guard(path);
    return Json::parse(text, std::ref(guard));
  } catch (const Json::parse_error& error) {
    throw FileError(
        path,
        "is not valid JSON at byte " + std::to_string(error.byte) +
            "; fetch the file again");
  } catch (const Json::out_of_range&) {
    throw FileError(path, "holds a number that no float64 can hold");
  }
}

/// "the string \"x\"", short enough for a message.
std::string describe_value(const Json& value) {
  if (value.is_object() || value.is_array()) {
    return value.is_object() ? "an object" : "a list";
  }
  auto text = value.dump(-1, ' ', true, Json::error_handler_t::replace);
  if (text.size() > 80) {
    text = text.substr(0, 77) + "...";
  }
  return value.is_string() ? "the string " + text : text;
}

} // namespace

struct Config::Node {
  std::filesystem::path path;
  std::string prefix; ///< "rope_scaling." inside that object.
  Json json = Json::object();

  /// The value, or nullptr when it is absent or null.
  const Json* find(std::string_view key) const {
    const auto found = json.find(std::string(key));
    return found == json.end() || found->is_null() ? nullptr : &*found;
  }

  [[noreturn]] void fail(std::string_view key, std::string_view reason) const {
    throw FieldError(path, prefix + std::string(key), reason);
  }
  [[noreturn]] void wrong(
      std::string_view key,
      std::string_view expected,
      const Json& found) const {
    fail(
        key,
        "expected " + std::string(expected) + ", found " +
            describe_value(found));
  }

  const Json& at(std::string_view key, std::string_view expected) const {
    const auto* value = find(key);
    if (value == nullptr) {
      fail(key, "is missing, expected " + std::string(expected));
    }
    return *value;
  }

  std::int64_t to_int(
      std::string_view key,
      const Json& value,
      std::int64_t min,
      std::int64_t max) const {
    std::optional<std::int64_t> number;
    if (value.is_number_unsigned()) {
      const auto big = value.get<std::uint64_t>();
      if (std::in_range<std::int64_t>(big)) {
        number = static_cast<std::int64_t>(big);
      }
    } else if (value.is_number_integer()) {
      number = value.get<std::int64_t>();
    } else if (value.is_number_float()) {
      // Some writers store whole numbers as 3.0. 2^53 bounds exact doubles.
      const double real = value.get<double>();
      if (std::floor(real) == real && std::fabs(real) <= 9007199254740992.0) {
        number = static_cast<std::int64_t>(real);
      }
    }
    if (!number || *number < min || *number > max) {
      std::string expected = "an integer";
      if (min != std::numeric_limits<std::int64_t>::min() ||
          max != std::numeric_limits<std::int64_t>::max()) {
        expected +=
            " from " + std::to_string(min) + " to " + std::to_string(max);
      }
      wrong(key, expected, value);
    }
    return *number;
  }
};

Config::Config() : node_(std::make_shared<Node>()) {}

Config::Config(std::shared_ptr<const Node> node) : node_(std::move(node)) {}

Config Config::parse(const std::filesystem::path& path, std::string_view text) {
  auto node = std::make_shared<Node>();
  node->path = path;
  node->json = parse_json(path, text);
  if (!node->json.is_object()) {
    throw FileError(
        path, "expected a JSON object, found " + describe_value(node->json));
  }
  return Config(std::move(node));
}

Config Config::load(const std::filesystem::path& path) {
  return parse(path, read_file(path, max_config_bytes));
}

const std::filesystem::path& Config::path() const {
  return node_->path;
}

bool Config::has(std::string_view key) const {
  return node_->find(key) != nullptr;
}

bool Config::is_null(std::string_view key) const {
  const auto found = node_->json.find(std::string(key));
  return found != node_->json.end() && found->is_null();
}

bool Config::is_object(std::string_view key) const {
  const auto* value = node_->find(key);
  return value != nullptr && value->is_object();
}

bool Config::is_array(std::string_view key) const {
  const auto* value = node_->find(key);
  return value != nullptr && value->is_array();
}

bool Config::is_string(std::string_view key) const {
  const auto* value = node_->find(key);
  return value != nullptr && value->is_string();
}

bool Config::is_bool(std::string_view key) const {
  const auto* value = node_->find(key);
  return value != nullptr && value->is_boolean();
}

bool Config::is_number(std::string_view key) const {
  const auto* value = node_->find(key);
  return value != nullptr && value->is_number();
}

std::int64_t Config::get_int(
    std::string_view key,
    std::int64_t min,
    std::int64_t max) const {
  return node_->to_int(key, node_->at(key, "an integer"), min, max);
}

std::int64_t Config::get_int_or(
    std::string_view key,
    std::int64_t fallback,
    std::int64_t min,
    std::int64_t max) const {
  return has(key) ? get_int(key, min, max) : fallback;
}

double Config::get_float(std::string_view key) const {
  const auto& value = node_->at(key, "a number");
  if (!value.is_number() || !std::isfinite(value.get<double>())) {
    node_->wrong(key, "a finite number", value);
  }
  return value.get<double>();
}

double Config::get_float_or(std::string_view key, double fallback) const {
  return has(key) ? get_float(key) : fallback;
}

bool Config::get_bool(std::string_view key) const {
  const auto& value = node_->at(key, "true or false");
  if (!value.is_boolean()) {
    node_->wrong(key, "true or false", value);
  }
  return value.get<bool>();
}

bool Config::get_bool_or(std::string_view key, bool fallback) const {
  return has(key) ? get_bool(key) : fallback;
}

std::string Config::get_string(std::string_view key) const {
  const auto& value = node_->at(key, "a string");
  if (!value.is_string()) {
    node_->wrong(key, "a string", value);
  }
  return value.get<std::string>();
}

std::string
Config::get_string_or(std::string_view key, std::string_view fallback) const {
  return has(key) ? get_string(key) : std::string(fallback);
}

std::vector<std::int64_t> Config::get_ints(
    std::string_view key,
    std::int64_t min,
    std::int64_t max) const {
  std::vector<std::int64_t> out;
  const auto* value = node_->find(key);
  if (value == nullptr) {
    return out;
  }
  if (!value->is_array()) {
    return {node_->to_int(key, *value, min, max)};
  }
  for (std::size_t idx = 0; idx < value->size(); ++idx) {
    const auto item = std::string(key) + "[" + std::to_string(idx) + "]";
    out.push_back(node_->to_int(item, (*value)[idx], min, max));
  }
  return out;
}

std::vector<std::string> Config::get_strings(std::string_view key) const {
  std::vector<std::string> out;
  const auto* value = node_->find(key);
  if (value == nullptr) {
    return out;
  }
  if (!value->is_array()) {
    node_->wrong(key, "a list of strings", *value);
  }
  for (std::size_t idx = 0; idx < value->size(); ++idx) {
    const auto& item = (*value)[idx];
    if (!item.is_string()) {
      const auto name = std::string(key) + "[" + std::to_string(idx) + "]";
      node_->wrong(name, "a string", item);
    }
    out.push_back(item.get<std::string>());
  }
  return out;
}

Config Config::sub(std::string_view key) const {
  const auto& value = node_->at(key, "an object");
  if (!value.is_object()) {
    node_->wrong(key, "an object", value);
  }
  auto node = std::make_shared<Node>();
  node->path = node_->path;
  node->prefix = node_->prefix + std::string(key) + ".";
  node->json = value;
  return Config(std::move(node));
}

std::optional<Config> Config::find_sub(std::string_view key) const {
  return has(key) ? std::optional(sub(key)) : std::nullopt;
}

std::vector<std::string> Config::keys() const {
  std::vector<std::string> out;
  for (const auto& item : node_->json.items()) {
    out.push_back(item.key());
  }
  return out;
}

std::string Config::dump() const {
  return node_->json.dump(2, ' ', false, Json::error_handler_t::replace);
}

void Config::fail(std::string_view key, std::string_view reason) const {
  node_->fail(key, reason);
}

} // namespace qwen3_mlx
