// SPDX-License-Identifier: MIT
// Tells thinking from answer in text that comes in pieces.
#pragma once

#include <functional>
#include <string>
#include <string_view>

namespace qwen3_mlx::cli {

/// Text between <think> and </think>, where the answer begins with the one or
/// the prompt already ended with it, is thinking. The tags themselves, and a
/// line end or two around them, are dropped.
class ThinkSplitter {
 public:
  using Sink = std::function<void(std::string_view text, bool is_thinking)>;

  ThinkSplitter(bool starts_thinking, Sink sink);

  void add(std::string_view text);
  /// Gives out what was held back as a possible beginning of a tag.
  void finish();

 private:
  enum class State { start, thinking, after_thinking, answer };

  void emit(std::string_view text, bool is_thinking);
  bool step();

  State state_;
  Sink sink_;
  std::string pending_;
};

} // namespace qwen3_mlx::cli
