// SPDX-License-Identifier: MIT
#include "server/hub.h"

namespace qwen3_mlx::server {

void Hub::deliver(engine::StepReport report) {
  if (report.stats.num_steps > metrics.engine.num_steps) {
    metrics.step.add(report.stats.step_seconds);
  }
  metrics.engine = report.stats;
  for (auto& event : report.events) {
    const auto place = waiting.find(event.request);
    if (place != waiting.end()) {
      place->second.inbox->events.emplace_back(
          place->second.prompt, std::move(event));
      place->second.inbox->wake.cancel();
    }
  }
}

void Hub::end_all() {
  for (auto& [id, place] : waiting) {
    place.inbox->events.emplace_back(
        place.prompt,
        engine::Event{
            .request = id,
            .finish = engine::Finish::shutdown,
            .error = "the server is shutting down"});
    place.inbox->wake.cancel();
  }
}

void Hub::log_unknown(
    const HttpRequest& request,
    const std::vector<std::string>& fields) {
  // Names are the clients' invention.
  constexpr std::size_t most = 1000;
  constexpr std::size_t longest = 100;
  for (const auto& name : fields) {
    const auto field = name.substr(0, longest);
    if (fields_logged.size() < most && fields_logged.insert(field).second) {
      log.write(
          LogLevel::warning,
          "unknown field ignored",
          {{"field", field}, {"request", request.id}});
    }
  }
}

void Hub::note(const Incoming& incoming, int status, const Answer* answer) {
  const std::chrono::duration<double> took =
      engine::Clock::now() - incoming.begun;
  const std::string route =
      incoming.route != nullptr ? incoming.route->path : "other";
  ++metrics.requests[{route, status}];
  metrics.num_disconnects += status == 499 ? 1 : 0;
  const auto level = route == "/health" || route == "/metrics" ? LogLevel::debug
                                                               : LogLevel::info;
  const auto ms = std::to_string(static_cast<long>(took.count() * 1e3));
  const auto& request = incoming.request;
  if (answer == nullptr) {
    log.write(
        level,
        "request",
        {{"id", request.id},
         {"method", request.method},
         {"path", request.path.substr(0, 200)},
         {"status", std::to_string(status)},
         {"ms", ms}});
    return;
  }
  metrics.request.add(took.count());
  const auto& usage = answer->usage();
  log.write(
      level,
      "request",
      {{"id", request.id},
       {"method", request.method},
       {"path", request.path},
       {"status", std::to_string(status)},
       {"ms", ms},
       {"prompt_tokens", std::to_string(usage.num_prompt)},
       {"cached_tokens", std::to_string(usage.num_cached)},
       {"completion_tokens", std::to_string(usage.num_generated)}});
}

} // namespace qwen3_mlx::server
