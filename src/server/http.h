// SPDX-License-Identifier: MIT
// Requests and responses as the handlers see them: plain data, so that only the
// connection knows the network library.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace qwen3_mlx::server {

using Headers = std::vector<std::pair<std::string, std::string>>;

struct HttpRequest {
  std::string id; ///< For logs and x-request-id.
  std::string method;
  std::string path;  ///< Without the query, as it was sent.
  std::string query; ///< What follows "?".
  Headers headers;   ///< Names in lower case.
  std::string body;
  std::string peer;
  std::string user; ///< Of the fair share: the API key's number, or the peer.

  /// The first header of that name (in lower case), or "".
  std::string_view header(std::string_view name) const;
};

struct HttpResponse {
  int status = 200;
  std::string content_type = "application/json";
  std::string body;
  Headers headers = {};
};

std::string_view reason_phrase(int status);

/// Status line and headers up to the empty line. `length` is the body's, or
/// absent for chunks.
struct HeadOptions {
  bool keep_alive = true;
  bool chunked = false;
};
std::string head_of(const HttpResponse& response, const HeadOptions& options);

/// A chunk of a chunked body; the empty one ends it.
std::string chunk_of(std::string_view data);

} // namespace qwen3_mlx::server
