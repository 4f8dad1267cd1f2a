// SPDX-License-Identifier: MIT
#include "server/security.h"

#include <algorithm>
#include <cctype>

#include "server/api_error.h"

namespace qwen3_mlx::server {
namespace {

std::string lower(std::string_view text) {
  std::string out(text);
  std::transform(out.begin(), out.end(), out.begin(), [](unsigned char c) {
    return static_cast<char>(std::tolower(c));
  });
  return out;
}

// "name:8080" -> "name", "[::1]:80" -> "[::1]".
std::string_view without_port(std::string_view host) {
  const auto bracket = host.rfind(']');
  const auto colon = host.rfind(':');
  const bool has_port = colon != std::string_view::npos &&
      (bracket == std::string_view::npos || colon > bracket);
  return has_port ? host.substr(0, colon) : host;
}

// "http://name:8080" -> "name:8080".
std::string_view host_of(std::string_view origin) {
  const auto scheme = origin.find("://");
  return scheme == std::string_view::npos ? origin : origin.substr(scheme + 3);
}

bool contains(const std::vector<std::string>& list, std::string_view text) {
  return std::find(list.begin(), list.end(), text) != list.end();
}

} // namespace

bool equal_in_constant_time(std::string_view a, std::string_view b) {
  // Runs over `b`, the secret, whatever `a` is.
  unsigned difference = a.size() == b.size() ? 0U : 1U;
  for (std::size_t idx = 0; idx < b.size(); ++idx) {
    const char other = a.empty() ? '\0' : a[idx % a.size()];
    difference |=
        static_cast<unsigned char>(other) ^ static_cast<unsigned char>(b[idx]);
  }
  return difference == 0;
}

bool is_loopback(std::string_view host) {
  // "127.0.0.1.evil.example" is a name like any other.
  const bool is_address =
      host.find_first_not_of("0123456789.") == std::string_view::npos;
  return host == "localhost" || host == "::1" || host == "[::1]" ||
      (is_address && host.starts_with("127."));
}

Gate::Gate(const ServerOptions& options)
    : keys_(options.api_keys), hosts_(options.allowed_hosts),
      origins_(options.allowed_origins),
      checks_hosts_(options.api_keys.empty() && is_loopback(options.host)) {
  if (!is_loopback(options.host) && keys_.empty() && !options.allow_open) {
    throw InvalidArgument(
        "host: " + options.host +
        " can be reached by others; give --api-key-file (or --api-key), or "
        "--allow-open to serve everyone");
  }
  if (contains(keys_, "")) {
    throw InvalidArgument("api_key: an empty key protects nothing");
  }
  for (auto& host : hosts_) {
    host = lower(host);
  }
}

std::optional<int> Gate::find_key(const HttpRequest& request) const {
  if (keys_.empty()) {
    return 0;
  }
  auto given = request.header("x-api-key");
  const auto authorization = request.header("authorization");
  constexpr std::string_view scheme = "bearer ";
  if (lower(authorization.substr(0, scheme.size())) == scheme) {
    given = authorization.substr(scheme.size());
  }
  std::optional<int> found;
  for (std::size_t idx = 0; idx < keys_.size(); ++idx) {
    if (equal_in_constant_time(given, keys_[idx])) {
      found = static_cast<int>(idx) + 1;
    }
  }
  return found;
}

bool Gate::allows(std::string_view origin) const {
  return contains(origins_, "*") || contains(origins_, origin);
}

void Gate::check_origin(const HttpRequest& request) const {
  const auto host = lower(request.header("host"));
  if (checks_hosts_ && !host.empty()) {
    const auto name = without_port(host);
    if (!is_loopback(name) && !contains(hosts_, name)) {
      throw ApiError(
          403,
          "the Host \"" + std::string(name) +
              "\" is not served here; --allowed-hosts names further ones");
    }
  }
  const auto origin = request.header("origin");
  if (!origin.empty() && lower(host_of(origin)) != host && !allows(origin)) {
    throw ApiError(
        403,
        "the Origin \"" + std::string(origin) +
            "\" is not allowed; --allowed-origins names those that are");
  }
}

Headers Gate::cors_headers(const HttpRequest& request) const {
  const auto origin = request.header("origin");
  if (origin.empty() || !allows(origin)) {
    return {};
  }
  return {
      {"Access-Control-Allow-Origin", std::string(origin)},
      {"Access-Control-Allow-Methods", "GET, POST, OPTIONS"},
      {"Access-Control-Allow-Headers",
       "Authorization, Content-Type, X-Api-Key"},
      {"Access-Control-Max-Age", "600"},
      {"Vary", "Origin"}};
}

} // namespace qwen3_mlx::server
