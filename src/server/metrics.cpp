// SPDX-License-Identifier: MIT
#include "server/metrics.h"

#include <algorithm>
#include <iomanip>
#include <sstream>

namespace qwen3_mlx::server {

Histogram::Histogram(std::vector<double> bounds)
    : bounds_(std::move(bounds)), counts_(bounds_.size() + 1, 0) {}

void Histogram::add(double value) {
  const auto bound = std::lower_bound(bounds_.begin(), bounds_.end(), value);
  ++counts_[static_cast<std::size_t>(bound - bounds_.begin())];
  sum_ += value;
}

std::string
Histogram::text(std::string_view name, std::string_view help) const {
  std::ostringstream out;
  out << "# HELP " << name << " " << help << "\n# TYPE " << name
      << " histogram\n";
  std::uint64_t total = 0;
  for (std::size_t idx = 0; idx < counts_.size(); ++idx) {
    total += counts_[idx];
    out << name << "_bucket{le=\"";
    if (idx < bounds_.size()) {
      out << bounds_[idx];
    } else {
      out << "+Inf";
    }
    out << "\"} " << total << "\n";
  }
  out << name << "_sum " << std::setprecision(17) << sum_ << "\n"
      << name << "_count " << total << "\n";
  return out.str();
}

std::string Metrics::text() const {
  std::ostringstream out;
  const auto add = [&out](
                       std::string_view name,
                       std::string_view kind,
                       std::string_view help,
                       auto value) {
    out << "# HELP qwen3_mlx_" << name << " " << help << "\n# TYPE qwen3_mlx_"
        << name << " " << kind << "\nqwen3_mlx_" << name << " " << value
        << "\n";
  };
  out << "# HELP qwen3_mlx_requests_total Requests by route and status.\n"
         "# TYPE qwen3_mlx_requests_total counter\n";
  for (const auto& [key, count] : requests) {
    out << "qwen3_mlx_requests_total{route=\"" << key.first << "\",status=\""
        << key.second << "\"} " << count << "\n";
  }
  add("prompt_tokens_total",
      "counter",
      "Prompt tokens computed.",
      engine.num_prompt_tokens);
  add("cached_tokens_total",
      "counter",
      "Prompt tokens found in the prefix cache.",
      engine.num_cached_tokens);
  add("generated_tokens_total",
      "counter",
      "Tokens generated.",
      engine.num_generated_tokens);
  add("tokens_ahead_total",
      "counter",
      "Those computed while the token before was not known yet.",
      engine.num_tokens_ahead);
  add("steps_total", "counter", "Forward passes.", engine.num_steps);
  add("failed_steps_total",
      "counter",
      "Forward passes that failed.",
      engine.num_failed_steps);
  add("preemptions_total",
      "counter",
      "Texts that lost their blocks and were computed again.",
      engine.num_preemptions);
  add("disconnects_total",
      "counter",
      "Clients that left before the end.",
      num_disconnects);
  add("connections_refused_total",
      "counter",
      "Connections over the limit.",
      num_connections_refused);
  add("connections", "gauge", "Open connections.", num_connections);
  add("requests_active", "gauge", "Requests under way.", num_active);
  add("sequences_running", "gauge", "Texts in the batch.", engine.num_running);
  add("sequences_waiting", "gauge", "Texts in line.", engine.num_waiting);
  add("kv_blocks", "gauge", "Blocks of keys and values.", engine.num_blocks);
  add("kv_blocks_available",
      "gauge",
      "Those free or kept for later requests only.",
      engine.num_available_blocks);
  add("kv_blocks_cached",
      "gauge",
      "Those kept for later requests.",
      engine.num_cached_blocks);
  out << first_token.text(
             "qwen3_mlx_time_to_first_token_seconds",
             "From the request to its first token.")
      << between_tokens.text(
             "qwen3_mlx_inter_token_seconds", "Between two tokens of a text.")
      << request.text(
             "qwen3_mlx_request_seconds", "From the request to its end.")
      << step.text("qwen3_mlx_step_seconds", "Of forward passes.");
  return out.str();
}

} // namespace qwen3_mlx::server
