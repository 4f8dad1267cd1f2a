// SPDX-License-Identifier: MIT
// One client: reads requests, lets the API answer them, writes the answers, all
// in one coroutine on the network's thread.
#pragma once

#include <memory>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "engine/engine.h"
#include "server/api.h"
#include "server/log.h"
#include "server/metrics.h"
#include "server/network.h"
#include "server/options.h"
#include "server/security.h"

namespace qwen3_mlx::server {

/// Events for a request that a connection waits for.
struct Inbox {
  explicit Inbox(const asio::any_io_executor& executor) : wake(executor) {}

  asio::steady_timer wake; ///< Cancelled when something has come.
  std::vector<std::pair<int, engine::Event>> events; ///< With its prompt.
  bool is_gone = false; ///< The client has closed the connection.
};

/// What connections share; the network's thread owns it.
struct Hub {
  asio::io_context& io;
  asio::thread_pool& workers;
  const Api& api;
  const Gate& gate;
  engine::Engine& engine;
  Metrics& metrics;
  const Log& log;
  const ServerOptions& options;

  bool is_draining = false;
  engine::RequestId last_request = 0;
  struct Place {
    Inbox* inbox;
    int prompt;
  };
  std::unordered_map<engine::RequestId, Place> waiting;
  std::unordered_set<beast::tcp_stream*> idle; ///< Between two requests.
  std::unordered_set<std::string> fields_logged;

  void deliver(engine::StepReport report);
  /// Tells every request that the server ends.
  void end_all();
};

asio::awaitable<void> serve_connection(tcp::socket socket, Hub& hub);

} // namespace qwen3_mlx::server
