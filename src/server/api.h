// SPDX-License-Identifier: MIT
// The routes: what each answers, before the engine is asked. No sockets.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "server/answer.h"
#include "server/http.h"
#include "server/metrics.h"
#include "server/served_model.h"

namespace qwen3_mlx::server {

/// A response, or an answer that is to be filled by the engine.
struct Reply {
  HttpResponse response = {};
  std::unique_ptr<Answer> answer = nullptr;
  std::vector<engine::Request> requests = {}; ///< Ids not yet set.
  std::vector<std::string> unknown_fields = {};
};

class Api {
 public:
  /// All must outlive this.
  Api(const ServedModel& model,
      const engine::Engine& engine,
      const Metrics& metrics,
      const ServerOptions& options);

  struct Route {
    std::string method;
    std::string path; ///< One that ends with "/" takes what follows it.
    /// Needs no API key.
    bool is_public = false;
    /// May take long: runs on a worker, not on the network's thread.
    bool is_heavy = false;
    Reply (Api::*handle)(const HttpRequest&) const;
  };
  std::span<const Route> routes() const {
    return routes_;
  }
  /// Null when there is none; `allowed` then lists the methods of that path.
  const Route* find(
      const std::string& method,
      const std::string& path,
      std::string& allowed) const;
  Reply handle(const Route& route, const HttpRequest& request) const {
    return (this->*route.handle)(request);
  }

 private:
  Reply chat_completions(const HttpRequest& request) const;
  Reply completions(const HttpRequest& request) const;
  Reply models(const HttpRequest& request) const;
  Reply one_model(const HttpRequest& request) const;
  Reply health(const HttpRequest& request) const;
  Reply show_metrics(const HttpRequest& request) const;
  Reply tokenize(const HttpRequest& request) const;
  Reply detokenize(const HttpRequest& request) const;
  Reply apply_template(const HttpRequest& request) const;
  Reply props(const HttpRequest& request) const;
  Reply openapi(const HttpRequest& request) const;
  Reply asset(const HttpRequest& request) const;

  const ServedModel& model_;
  const engine::Engine& engine_;
  const Metrics& metrics_;
  milliseconds stall_time_;
  std::string openapi_;
  std::vector<Route> routes_;
};

} // namespace qwen3_mlx::server
