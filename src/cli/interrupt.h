// SPDX-License-Identifier: MIT
// Ctrl-C as a request: stop the answer, keep the program.
#pragma once

#include <csignal>

namespace qwen3_mlx::cli {

/// While one lives, SIGINT sets a flag instead of ending the process; a second
/// SIGINT ends it, should the first go unheard. One at a time: signals are the
/// process's, so the flag behind this is too.
class InterruptScope {
 public:
  InterruptScope();
  ~InterruptScope();
  InterruptScope(const InterruptScope&) = delete;
  InterruptScope& operator=(const InterruptScope&) = delete;

  /// Whether SIGINT came since this scope began.
  bool requested() const;

 private:
  struct sigaction previous_ {};
};

/// While one lives, SIGINT does nothing outside of InterruptScopes: between two
/// answers a Ctrl-C that comes early or late must not end the program.
class InterruptsIgnored {
 public:
  InterruptsIgnored();
  ~InterruptsIgnored();
  InterruptsIgnored(const InterruptsIgnored&) = delete;
  InterruptsIgnored& operator=(const InterruptsIgnored&) = delete;

 private:
  struct sigaction previous_ {};
};

} // namespace qwen3_mlx::cli
