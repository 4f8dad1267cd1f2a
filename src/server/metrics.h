// SPDX-License-Identifier: MIT
// Counts and times of the server, and Prometheus' text form of them. Belongs to
// the network thread.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/request.h"

namespace qwen3_mlx::server {

/// How often values fell below each of some bounds.
class Histogram {
 public:
  explicit Histogram(std::vector<double> bounds);

  void add(double value);
  /// Lines "<name>_bucket{le=...}", "<name>_sum" and "<name>_count".
  std::string text(std::string_view name, std::string_view help) const;

 private:
  std::vector<double> bounds_;
  std::vector<std::uint64_t> counts_;
  double sum_ = 0;
};

struct Metrics {
  std::map<std::pair<std::string, int>, std::uint64_t> requests;
  std::uint64_t num_disconnects = 0;
  std::uint64_t num_connections_refused = 0;
  int num_connections = 0;
  int num_active = 0; ///< Requests that wait for the engine or write.
  engine::EngineStats engine;
  Histogram first_token{
      {0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60}};
  Histogram between_tokens{
      {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5}};
  Histogram request{{0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300}};
  Histogram step{{0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1}};

  std::string text() const;
};

} // namespace qwen3_mlx::server
