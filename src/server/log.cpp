// SPDX-License-Identifier: MIT
#include "server/log.h"

#include <array>
#include <chrono>
#include <ctime>
#include <iostream>

#include "server/json.h"

namespace qwen3_mlx::server {
namespace {

std::string now_text() {
  const auto now = std::chrono::system_clock::now();
  const auto seconds = std::chrono::system_clock::to_time_t(now);
  const auto fraction =
      std::chrono::duration_cast<milliseconds>(now.time_since_epoch()) % 1000;
  std::tm utc{};
  gmtime_r(&seconds, &utc);
  std::array<char, 32> text{};
  std::strftime(text.data(), text.size(), "%Y-%m-%dT%H:%M:%S", &utc);
  const auto digits = std::to_string(1000 + fraction.count());
  return std::string(text.data()) + "." + digits.substr(1) + "Z";
}

bool is_plain(std::string_view text) {
  return !text.empty() &&
      text.find_first_not_of(
          "abcdefghijklmnopqrstuvwxyz"
          "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
          "0123456789-_./:") == std::string_view::npos;
}

} // namespace

void Log::write(
    LogLevel level,
    std::string_view message,
    std::initializer_list<Pair> pairs) const {
  if (!shows(level)) {
    return;
  }
  constexpr std::array names{"error", "warning", "info", "debug"};
  std::string line = now_text() + " " +
      names.at(static_cast<std::size_t>(level)) + " " + std::string(message);
  for (const auto& [key, value] : pairs) {
    line += " ";
    line += key;
    line += "=";
    line += is_plain(value) ? value : to_text(Json(value));
  }
  line += "\n";
  std::cerr << line; // one write: lines of threads do not mix
}

} // namespace qwen3_mlx::server
