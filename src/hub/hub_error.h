// SPDX-License-Identifier: MIT
// What can go wrong between this program and a model repository.
#pragma once

#include <chrono>
#include <optional>
#include <string>

#include "qwen3_mlx/error.h"

namespace qwen3_mlx::hub {

enum class Fault {
  unauthorized, ///< A token is missing or refused.
  gated,        ///< The repository's licence was not accepted.
  not_found,    ///< No such repository, revision or file.
  rate_limited, ///< Too many requests.
  server,       ///< The server's own failures, and answers that make no sense.
  network,      ///< Not reached, or lost again and again.
  corrupt,      ///< The bytes are not those that were announced.
  offline,      ///< Not in the cache, and the network is switched off.
  no_space,     ///< The disk is too small.
  cancelled,    ///< The caller asked to stop.
};

/// The message names the repository, file or address, and the cure.
class HubError : public Error {
 public:
  HubError(
      Fault fault,
      const std::string& message,
      std::optional<std::chrono::seconds> retry_after = std::nullopt)
      : Error(message), fault_(fault), retry_after_(retry_after) {}

  Fault fault() const noexcept {
    return fault_;
  }
  /// How long the server asks to wait, where it does.
  std::optional<std::chrono::seconds> retry_after() const noexcept {
    return retry_after_;
  }

 private:
  Fault fault_;
  std::optional<std::chrono::seconds> retry_after_;
};

} // namespace qwen3_mlx::hub
