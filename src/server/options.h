// SPDX-License-Identifier: MIT
// How the server is to behave; the engine has options of its own.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace qwen3_mlx::server {

using std::chrono::milliseconds;
using std::chrono::seconds;

struct Limits {
  std::size_t max_header_bytes = 64 << 10;
  std::size_t max_headers = 100;
  std::size_t max_target_bytes = 8 << 10;
  std::size_t max_body_bytes = 16 << 20;
  int max_connections = 512;
  milliseconds header_time = seconds(10);
  milliseconds body_time = seconds(30); ///< And as long as 64 KiB/s need.
  milliseconds idle_time = seconds(75);
  milliseconds write_time = seconds(30); ///< For each write to a client.
  milliseconds ping_interval = seconds(15);
  milliseconds drain_time = seconds(30);
  int max_choices = 8;
  std::size_t max_stops = 16;
  std::size_t max_stop_bytes = 256;
  int max_top_logprobs = 20;
  std::size_t max_logit_bias = 1024;
  std::size_t max_prompts = 64;
};

enum class LogLevel { error, warning, info, debug };

struct ServerOptions {
  std::string host = "127.0.0.1";
  std::uint16_t port = 8080;
  std::string model_name; ///< Under which clients know the model.
  std::vector<std::string> api_keys;
  bool allow_open = false; ///< Other addresses than loopback without a key.
  std::vector<std::string> allowed_hosts;   ///< Besides those of loopback.
  std::vector<std::string> allowed_origins; ///< For CORS; "*" for all.
  std::string chat_template_kwargs;         ///< A JSON object, or empty.
  int default_max_tokens = 0;   ///< 0: as much as the context has room for.
  milliseconds request_time{0}; ///< Most time of a request; 0: no limit.
  milliseconds stall_time = seconds(120); ///< A step that takes longer is ill.
  LogLevel log_level = LogLevel::info;
  bool page = true;
  Limits limits;
};

} // namespace qwen3_mlx::server
