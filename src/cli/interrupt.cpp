// SPDX-License-Identifier: MIT

#include "cli/interrupt.h"

namespace qwen3_mlx::cli {
namespace {

// A signal handler can reach nothing but globals, and write nothing but this
// type.
volatile std::sig_atomic_t interrupted = 0;

extern "C" void on_interrupt(int signal) {
  if (interrupted != 0) {
    // Both calls are async-signal-safe. The signal is delivered with its
    // default action as soon as this handler returns.
    std::signal(signal, SIG_DFL);
    std::raise(signal);
  }
  interrupted = 1;
}

struct sigaction handle_interrupt(void (*handler)(int)) {
  struct sigaction action {};
  struct sigaction previous {};
  action.sa_handler = handler;
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, &previous);
  return previous;
}

} // namespace

InterruptScope::InterruptScope() {
  interrupted = 0;
  previous_ = handle_interrupt(on_interrupt);
}

InterruptScope::~InterruptScope() {
  sigaction(SIGINT, &previous_, nullptr);
}

bool InterruptScope::requested() const {
  return interrupted != 0;
}

InterruptsIgnored::InterruptsIgnored() : previous_(handle_interrupt(SIG_IGN)) {}

InterruptsIgnored::~InterruptsIgnored() {
  sigaction(SIGINT, &previous_, nullptr);
}

} // namespace qwen3_mlx::cli
