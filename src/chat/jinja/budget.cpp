// SPDX-License-Identifier: MIT
#include "chat/jinja/budget.h"

#include <ctime>

#include <string>

namespace qwen3_mlx::jinja {

namespace {

// The clock is read once in this many steps: reading it is a system call.
constexpr std::size_t steps_between_clock_checks = 2048;

// Processor time of this thread: a busy machine must not fail a rendering.
std::int64_t thread_time_ns() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<std::int64_t>(now.tv_sec) * 1'000'000'000 + now.tv_nsec;
}

std::size_t below(std::size_t steps) {
  return steps > steps_between_clock_checks ? steps - steps_between_clock_checks
                                            : 0;
}

} // namespace

Budget::Budget(const TemplateLimits& limits)
    : limits_(limits), steps_left_(limits.max_steps),
      next_clock_check_(below(limits.max_steps)),
      deadline_ns_(
          thread_time_ns() +
          std::chrono::duration_cast<std::chrono::nanoseconds>(limits.max_time)
              .count()) {}

void Budget::exhausted() const {
  throw Fault(
      "the template takes more than " + std::to_string(limits_.max_steps) +
      " steps");
}

void Budget::check_clock() {
  next_clock_check_ = below(steps_left_);
  if (thread_time_ns() > deadline_ns_) {
    throw Fault(
        "the template takes longer than " +
        std::to_string(limits_.max_time.count()) + " ms");
  }
}

void Budget::charge_bytes(std::size_t n_bytes) {
  if (n_bytes > limits_.max_output_bytes) {
    throw Fault(
        "a text is longer than " + std::to_string(limits_.max_output_bytes) +
        " bytes");
  }
  // Copying 128 bytes is about as much work as a step.
  charge(n_bytes / 128);
}

void Budget::charge_items(std::size_t n_items) {
  if (n_items > limits_.max_items) {
    throw Fault(
        "a list is longer than " + std::to_string(limits_.max_items) +
        " items");
  }
  charge(n_items / 4);
}

Budget::Call::Call(Budget& budget) : budget_(budget) {
  if (++budget_.calls_ > budget_.limits_.max_depth) {
    --budget_.calls_;
    throw Fault(
        "macros or loops call each other more than " +
        std::to_string(budget_.limits_.max_depth) + " deep");
  }
}

} // namespace qwen3_mlx::jinja
