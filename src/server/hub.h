// SPDX-License-Identifier: MIT
// What connections share, and the way of the engine's events to those that wait
// for them. All of it belongs to the network's thread.
#pragma once

#include <string>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "engine/engine.h"
#include "server/answer.h"
#include "server/api.h"
#include "server/client_socket.h"
#include "server/log.h"
#include "server/metrics.h"
#include "server/network.h"
#include "server/options.h"
#include "server/request_reader.h"
#include "server/security.h"

namespace qwen3_mlx::server {

/// Events for a request that a connection waits for.
struct Inbox {
  explicit Inbox(const asio::any_io_executor& executor) : wake(executor) {}

  asio::steady_timer wake; ///< Cancelled when something has come.
  std::vector<std::pair<int, engine::Event>> events; ///< With its prompt.
  bool is_gone = false; ///< The client has closed the connection.
};

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
  std::unordered_set<ClientSocket*> idle; ///< Between two requests.
  std::unordered_set<std::string> fields_logged;

  void deliver(engine::StepReport report);
  /// Tells every request that the server ends.
  void end_all();
  /// Logs names that no version of the API knows, each once.
  void log_unknown(
      const HttpRequest& request,
      const std::vector<std::string>& fields);
  /// Logs and counts a request that is over; `answer` is null where the engine
  /// had no part in it. Status 499: the client left.
  void note(const Incoming& incoming, int status, const Answer* answer);
};

} // namespace qwen3_mlx::server
