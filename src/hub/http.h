// SPDX-License-Identifier: MIT
// One HTTP request at a time over connections that are kept. With libcurl
// (http_curl.cpp) or, in builds without it, refusing (http_none.cpp).
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>

namespace qwen3_mlx::hub {

/// The head of an answer.
struct HttpResponse {
  int status = 0;
  std::map<std::string, std::string> headers; ///< Names in lower case.

  /// The value, or an empty string.
  std::string header(const std::string& name) const;
};

enum class Redirects {
  same_origin, ///< One to elsewhere is itself the answer.
  all,
};

struct HttpRequest {
  std::string url;
  bool head_only = false;
  Redirects redirects = Redirects::all;
  /// Sent as "Authorization: Bearer" to the origin (scheme, host and port) of
  /// `url`, never to another one that it redirects to.
  std::string token;
  std::uint64_t first_byte = 0; ///< Asks for the bytes from here on.
  /// Bytes of a body of status 200 or 206, as they come, after the head. What
  /// it throws ends the request and comes out of send(). Other bodies are
  /// dropped.
  std::function<void(const HttpResponse& head, std::string_view bytes)> body;
  /// Asked a few times a second; true ends the request.
  std::function<bool()> cancelled;
};

/// Not one for several threads at once.
class HttpClient {
 public:
  HttpClient(
      std::chrono::milliseconds connect_timeout,
      std::chrono::milliseconds stall_timeout);
  ~HttpClient();
  HttpClient(const HttpClient&) = delete;
  HttpClient& operator=(const HttpClient&) = delete;

  /// The answer to the last of the redirects; headers of the hub ("x-...") of
  /// those before stay where it has none. Throws HubError (network) when the
  /// server is not reached, the connection is lost or too slow, and
  /// (cancelled).
  HttpResponse send(const HttpRequest& request);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

} // namespace qwen3_mlx::hub
