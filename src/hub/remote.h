// SPDX-License-Identifier: MIT
// The hub's protocol: what a repository holds, what a file is, and its bytes.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "hub/answers.h"
#include "hub/http.h"
#include "hub/hub_error.h"
#include "hub/reference.h"
#include "hub/settings.h"

namespace qwen3_mlx::hub {

/// Whether the caller wants everything to stop; asked from any thread.
using Cancelled = std::function<bool()>;

/// Counts failures and waits between attempts.
class Retries {
 public:
  Retries(const Settings& settings, const Cancelled& cancelled)
      : settings_(settings), cancelled_(cancelled) {}

  /// What came before counts no more.
  void reset() {
    n_failures_ = 0;
  }
  /// Waits as long as the server asks, or twice as long as last time. Throws
  /// `failure` when another attempt makes no sense, or too many were made.
  void wait_after(const HubError& failure);

 private:
  const Settings& settings_;
  const Cancelled& cancelled_;
  int n_failures_ = 0;
  std::chrono::milliseconds waited_{};
};

/// One connection to the hub; not for several threads at once. Questions that
/// fail in ways that may pass are asked again, as `settings` allow.
class Remote {
 public:
  Remote(const Settings& settings, Cancelled cancelled);

  /// Throws HubError, also for paths that would leave the snapshot.
  Listing list(const Reference& reference);
  FileInfo info(
      const std::string& repo,
      const std::string& commit,
      const std::string& file);
  /// One attempt at the bytes from `first` on, which may yet come from the
  /// beginning (status 200). Throws HubError.
  void read(
      const std::string& repo,
      const std::string& commit,
      const std::string& file,
      std::uint64_t first,
      const std::function<void(const HttpResponse&, std::string_view)>& body);

  const Settings& settings() const {
    return settings_;
  }
  const Cancelled& cancelled() const {
    return cancelled_;
  }

 private:
  std::string resolve_url(
      const std::string& repo,
      const std::string& commit,
      const std::string& file) const;

  const Settings& settings_;
  Cancelled cancelled_;
  HttpClient client_;
};

} // namespace qwen3_mlx::hub
