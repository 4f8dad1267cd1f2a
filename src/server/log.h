// SPDX-License-Identifier: MIT
// Lines for the server's operator: time, level, message and key=value pairs, on
// standard error. Values are quoted, so that no request can forge a line.
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>

#include "server/options.h"

namespace qwen3_mlx::server {

class Log {
 public:
  explicit Log(LogLevel level) : level_(level) {}

  using Pair = std::pair<std::string_view, std::string>;
  void write(
      LogLevel level,
      std::string_view message,
      std::initializer_list<Pair> pairs = {}) const;
  bool shows(LogLevel level) const {
    return level <= level_;
  }

 private:
  LogLevel level_;
};

} // namespace qwen3_mlx::server
