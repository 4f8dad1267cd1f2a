// SPDX-License-Identifier: MIT
// What one rendering may use up. Templates come from strangers, so work,
// nesting, text and time all have an end.
#pragma once

#include <cstddef>
#include <cstdint>

#include "chat/jinja/fault.h"
#include "qwen3_mlx/chat_template.h"

namespace qwen3_mlx::jinja {

/// Counts the work of one rendering and throws Fault when a limit is reached.
class Budget {
 public:
  explicit Budget(const TemplateLimits& limits);

  const TemplateLimits& limits() const {
    return limits_;
  }

  /// One step of evaluation, or `n` of them.
  void charge(std::size_t n = 1) {
    if (n > steps_left_) {
      exhausted();
    }
    steps_left_ -= n;
    if (steps_left_ < next_clock_check_) {
      check_clock();
    }
  }

  /// For a new string of `n_bytes`: it must not be too long, and costs.
  void charge_bytes(std::size_t n_bytes);
  /// For a new list, tuple or dict of `n_items`.
  void charge_items(std::size_t n_items);

  /// Counts nested evaluation (C++ stack) while it lives.
  class Nesting {
   public:
    explicit Nesting(Budget& budget) : budget_(budget) {
      if (++budget_.nesting_ > max_nesting) {
        --budget_.nesting_;
        throw Fault("the template nests too deeply");
      }
    }
    ~Nesting() {
      --budget_.nesting_;
    }
    Nesting(const Nesting&) = delete;
    Nesting& operator=(const Nesting&) = delete;

   private:
    Budget& budget_;
  };

  /// Counts calls of macros and recursive loops while it lives.
  class Call {
   public:
    explicit Call(Budget& budget);
    ~Call() {
      --budget_.calls_;
    }
    Call(const Call&) = delete;
    Call& operator=(const Call&) = delete;

   private:
    Budget& budget_;
  };

 private:
  // Each level takes a few hundred bytes of stack; the smallest default stack
  // of a thread is 512 KiB (macOS).
  static constexpr int max_nesting = 700;

  [[noreturn]] void exhausted() const;
  void check_clock();

  TemplateLimits limits_;
  std::size_t steps_left_;
  std::size_t next_clock_check_;
  std::int64_t deadline_ns_;
  int nesting_ = 0;
  int calls_ = 0;
};

} // namespace qwen3_mlx::jinja
