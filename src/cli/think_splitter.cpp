// SPDX-License-Identifier: MIT

#include "cli/think_splitter.h"

#include <algorithm>

namespace qwen3_mlx::cli {
namespace {

constexpr std::string_view open_tag = "<think>";
constexpr std::string_view close_tag = "</think>";
constexpr std::string_view white_space = " \t\r\n";

/// Length of the longest end of `text` that is a beginning of `tag`.
std::size_t partial_tag(std::string_view text, std::string_view tag) {
  for (auto n = std::min(text.size(), tag.size() - 1); n > 0; --n) {
    if (text.ends_with(tag.substr(0, n))) {
      return n;
    }
  }
  return 0;
}

void drop_white_space(std::string& text) {
  text.erase(0, std::min(text.find_first_not_of(white_space), text.size()));
}

} // namespace

ThinkSplitter::ThinkSplitter(bool starts_thinking, Sink sink)
    : state_(starts_thinking ? State::thinking : State::start),
      sink_(std::move(sink)) {}

void ThinkSplitter::emit(std::string_view text, bool is_thinking) {
  if (!text.empty()) {
    sink_(text, is_thinking);
  }
}

void ThinkSplitter::add(std::string_view text) {
  pending_ += text;
  while (step()) {
  }
}

/// Handles what is pending as far as it is clear; true: the state changed.
bool ThinkSplitter::step() {
  switch (state_) {
  case State::start: {
    const auto first = pending_.find_first_not_of(white_space);
    if (first == std::string::npos) {
      return false;
    }
    const auto begin = std::string_view(pending_).substr(first);
    if (begin.starts_with(open_tag)) {
      pending_.erase(0, first + open_tag.size());
      state_ = State::thinking;
      return true;
    }
    if (open_tag.starts_with(begin)) {
      return false;
    }
    state_ = State::answer;
    return true;
  }
  case State::thinking: {
    const auto close = pending_.find(close_tag);
    if (close != std::string::npos) {
      emit(std::string_view(pending_).substr(0, close), true);
      pending_.erase(0, close + close_tag.size());
      state_ = State::after_thinking;
      return true;
    }
    const auto ready = pending_.size() - partial_tag(pending_, close_tag);
    emit(std::string_view(pending_).substr(0, ready), true);
    pending_.erase(0, ready);
    return false;
  }
  case State::after_thinking:
    drop_white_space(pending_);
    if (pending_.empty()) {
      return false;
    }
    state_ = State::answer;
    return true;
  case State::answer:
    break;
  }
  emit(pending_, false);
  pending_.clear();
  return false;
}

void ThinkSplitter::finish() {
  emit(pending_, state_ == State::thinking);
  pending_.clear();
}

} // namespace qwen3_mlx::cli
