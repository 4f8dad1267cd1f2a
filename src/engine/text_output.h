// SPDX-License-Identifier: MIT
// From a sequence's tokens to the text that may be shown: whole characters,
// stop strings found across tokens and never leaked, thinking kept within its
// budget.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/request.h"
#include "qwen3_mlx/tokenizer.h"

namespace qwen3_mlx::engine {

/// Finds the first of some strings in a text that comes in pieces.
class StopMatcher {
 public:
  explicit StopMatcher(std::vector<std::string> stops);

  /// What of the text so far certainly belongs to no stop string.
  std::string add(std::string_view text);
  /// The rest, when nothing more comes.
  std::string finish();
  /// Whether a stop string was found; nothing comes after it.
  bool matched() const {
    return matched_;
  }

 private:
  std::vector<std::string> stops_;
  std::string held_;
  bool matched_ = false;
};

/// One choice of a request.
class TextOutput {
 public:
  TextOutput(const Request& request, const Tokenizer& tokenizer);

  /// The token that counts, where the thinking budget says another than the
  /// model's.
  std::uint32_t decide(std::uint32_t token);

  struct Piece {
    std::string text;
    std::optional<Finish> finish;
  };
  /// Takes the next token.
  Piece add(std::uint32_t token);

  int num_tokens() const {
    return num_tokens_;
  }

 private:
  void watch_thinking(std::uint32_t token);

  StreamingDetokenizer detokenizer_;
  StopMatcher stops_;
  std::vector<std::uint32_t> stop_ids_;
  int max_tokens_;
  int num_tokens_ = 0;
  std::optional<ThinkingBudget> thinking_;
  bool is_thinking_ = false;
  int num_thought_ = 0;
  std::deque<std::uint32_t> forced_;
};

} // namespace qwen3_mlx::engine
