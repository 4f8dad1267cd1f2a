// SPDX-License-Identifier: MIT
#include "hub/settings.h"

#include <algorithm>
#include <cctype>
#include <charconv>
#include <initializer_list>
#include <optional>
#include <string_view>

#include "base/file.h"
#include "qwen3_mlx/error.h"

namespace qwen3_mlx::hub {
namespace {

namespace fs = std::filesystem;

/// The first of `names` that is set to something.
std::string first_of(
    const Environment& environment,
    std::initializer_list<const char*> names) {
  for (const char* name : names) {
    const char* value = environment(name);
    if (value != nullptr && *value != '\0') {
      return value;
    }
  }
  return {};
}

bool is_true(std::string value) {
  std::transform(value.begin(), value.end(), value.begin(), [](char c) {
    return static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  });
  return value == "1" || value == "ON" || value == "YES" || value == "TRUE";
}

fs::path home_of(const Environment& environment) {
  const auto home = first_of(environment, {"HOME"});
  return home.empty() ? fs::path(".") : fs::path(home);
}

/// "~" and "~/x" lie in the home folder.
fs::path expanded(const Environment& environment, const std::string& path) {
  if (path == "~") {
    return home_of(environment);
  }
  return path.starts_with("~/") ? home_of(environment) / path.substr(2)
                                : fs::path(path);
}

std::string trimmed(std::string_view text) {
  constexpr std::string_view space = " \t\r\n";
  const auto first = text.find_first_not_of(space);
  if (first == std::string_view::npos) {
    return {};
  }
  return std::string(
      text.substr(first, text.find_last_not_of(space) - first + 1));
}

std::string read_token(const Environment& environment, const fs::path& home) {
  if (is_true(first_of(environment, {"HF_HUB_DISABLE_IMPLICIT_TOKEN"}))) {
    return {};
  }
  auto token =
      trimmed(first_of(environment, {"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"}));
  if (token.empty()) {
    const auto named = first_of(environment, {"HF_TOKEN_PATH"});
    const auto path =
        named.empty() ? home / "token" : expanded(environment, named);
    std::error_code error;
    if (fs::is_regular_file(path, error)) {
      token = trimmed(read_file(path, 1 << 16));
    }
  }
  // It goes into a header, where a line break would begin another.
  if (!std::all_of(token.begin(), token.end(), [](char c) {
        return c > 32 && c < 127;
      })) {
    throw InvalidArgument(
        "HF_TOKEN: expected a token of printable ASCII characters");
  }
  return token;
}

/// A whole number from 1 to 86400.
std::optional<int> number_of(const Environment& environment, const char* name) {
  const auto text = first_of(environment, {name});
  if (text.empty()) {
    return std::nullopt;
  }
  int number = 0;
  const auto [end, error] =
      std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc{} || end != text.data() + text.size() || number < 1 ||
      number > 86'400) {
    throw InvalidArgument(
        std::string(name) + ": expected a number from 1 to 86400, found \"" +
        text + "\"");
  }
  return number;
}

} // namespace

Settings settings_from(const Environment& environment) {
  Settings settings;
  auto endpoint = first_of(environment, {"HF_ENDPOINT"});
  while (endpoint.ends_with('/')) {
    endpoint.pop_back();
  }
  if (!endpoint.empty()) {
    if (!endpoint.starts_with("https://") && !endpoint.starts_with("http://")) {
      throw InvalidArgument(
          "HF_ENDPOINT: expected an address that begins with https:// or "
          "http://, found \"" +
          endpoint + "\"");
    }
    settings.endpoint = endpoint;
  }
  const auto hf_home = first_of(environment, {"HF_HOME"});
  const auto xdg = first_of(environment, {"XDG_CACHE_HOME"});
  const fs::path home = !hf_home.empty() ? expanded(environment, hf_home)
      : !xdg.empty()                     ? fs::path(xdg) / "huggingface"
                     : home_of(environment) / ".cache" / "huggingface";
  const auto cache =
      first_of(environment, {"HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"});
  settings.cache = cache.empty() ? home / "hub" : expanded(environment, cache);
  settings.token = read_token(environment, home);
  settings.offline = is_true(
      first_of(environment, {"HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"}));
  if (const auto seconds = number_of(environment, "HF_HUB_ETAG_TIMEOUT")) {
    settings.connect_timeout = std::chrono::seconds(*seconds);
  }
  if (const auto seconds = number_of(environment, "HF_HUB_DOWNLOAD_TIMEOUT")) {
    settings.stall_timeout = std::chrono::seconds(*seconds);
  }
  if (const auto delay = number_of(environment, "QWEN3_MLX_HUB_DELAY_MS")) {
    settings.first_delay = std::chrono::milliseconds(*delay);
  }
  return settings;
}

} // namespace qwen3_mlx::hub
