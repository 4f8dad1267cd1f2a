// SPDX-License-Identifier: MIT
// Reads one request from a client, within the limits of size and time.
#pragma once

#include <functional>
#include <optional>

#include "server/api.h"
#include "server/client_socket.h"
#include "server/http.h"
#include "server/options.h"

namespace qwen3_mlx::server {

/// A request that was read, or why it was not.
struct Incoming {
  HttpRequest request;
  std::optional<HttpResponse> refusal;
  const Api::Route* route = nullptr;
  bool keep_alive = false;
  bool takes_chunks = true;      ///< HTTP/1.1.
  ClientSocket::TimePoint begun; ///< When its first bytes were there.
};

/// Decides by the head who may ask for what, before the body is read: sets the
/// route and the user, or returns the refusal.
using Admit = std::function<std::optional<HttpResponse>(Incoming&)>;

/// A refusal of `status` in the form of OpenAI's errors.
HttpResponse refuse(int status, const std::string& why);

/// Of a request whose first bytes are in the socket's buffer or to come. One
/// that is malformed, too long or too slow (408) comes with its refusal, after
/// which the connection is to be closed. Nothing: the client has left.
asio::awaitable<std::optional<Incoming>>
read_request(ClientSocket& socket, const Limits& limits, const Admit& admit);

} // namespace qwen3_mlx::server
