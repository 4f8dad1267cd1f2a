// SPDX-License-Identifier: MIT
// Who may ask: API keys, and the checks that keep web pages of other sites out.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "server/http.h"
#include "server/options.h"

namespace qwen3_mlx::server {

/// Whether the texts are equal, in a time that tells nothing of where they
/// differ.
bool equal_in_constant_time(std::string_view a, std::string_view b);

bool is_loopback(std::string_view host);

class Gate {
 public:
  /// Throws InvalidArgument for an address that others can reach without an
  /// API key, unless that is explicitly allowed.
  explicit Gate(const ServerOptions& options);

  /// The number of the API key that was given, 0 where none is needed; nothing
  /// when it is missing or wrong.
  std::optional<int> find_key(const HttpRequest& request) const;
  /// Throws ApiError (403) for a Host or an Origin that may not be: without
  /// keys, a page of another site could otherwise reach a local server, by a
  /// name of its own that it points here (DNS rebinding).
  void check_origin(const HttpRequest& request) const;
  /// Headers that allow a page of an allowed origin to read the response.
  Headers cors_headers(const HttpRequest& request) const;

 private:
  bool allows(std::string_view origin) const;

  std::vector<std::string> keys_;
  std::vector<std::string> hosts_;
  std::vector<std::string> origins_;
  bool checks_hosts_;
};

} // namespace qwen3_mlx::server
