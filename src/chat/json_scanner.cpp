// SPDX-License-Identifier: MIT
#include "chat/json_scanner.h"

#include <string_view>

namespace qwen3_mlx {

namespace {

constexpr std::size_t max_depth = 100;

bool is_json_space(char c) {
  return c == ' ' || c == '\n' || c == '\r' || c == '\t';
}

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

} // namespace

JsonScanner::Step JsonScanner::after_value() {
  if (open_.empty()) {
    return Step::done;
  }
  state_ = State::comma_or_end;
  return Step::more;
}

JsonScanner::Step JsonScanner::start_value(char c) {
  if (c == '{' || c == '[') {
    if (open_.size() >= max_depth) {
      return Step::error;
    }
    open_ += c == '{' ? '}' : ']';
    state_ = c == '{' ? State::key_or_end : State::value_or_end;
    return Step::more;
  }
  if (c == '"') {
    in_key_ = false;
    state_ = State::string;
    return Step::more;
  }
  word_ = c;
  if (c == 't' || c == 'f' || c == 'n') {
    literal_ = c == 't' ? "true" : c == 'f' ? "false" : "null";
    state_ = State::literal;
    return Step::more;
  }
  state_ = State::number;
  return c == '-' || is_digit(c) ? Step::more : Step::error;
}

bool JsonScanner::number_goes_on(char c) {
  // Whether word_ + c can still start a number.
  char last = word_.back();
  bool fraction = word_.find('.') != std::string::npos;
  std::size_t e = word_.find_first_of("eE");
  if (is_digit(c)) {
    // No digit after a leading zero.
    return !(word_ == "0" || word_ == "-0");
  }
  if (c == '.') {
    return is_digit(last) && !fraction && e == std::string::npos;
  }
  if (c == 'e' || c == 'E') {
    return is_digit(last) && e == std::string::npos;
  }
  return (c == '+' || c == '-') && e != std::string::npos &&
      e + 1 == word_.size();
}

bool JsonScanner::number_complete() const {
  return is_digit(word_.back());
}

JsonScanner::Step JsonScanner::structure(char c) {
  if (is_json_space(c)) {
    return Step::more;
  }
  switch (state_) {
  case State::value_or_end:
  case State::key_or_end:
    if (c == open_.back()) {
      open_.pop_back();
      return after_value();
    }
    if (state_ == State::value_or_end) {
      return start_value(c);
    }
    [[fallthrough]];
  case State::key:
    if (c != '"') {
      return Step::error;
    }
    in_key_ = true;
    state_ = State::string;
    return Step::more;
  case State::colon:
    state_ = State::value;
    return c == ':' ? Step::more : Step::error;
  case State::comma_or_end:
    if (c == ',') {
      state_ = open_.back() == '}' ? State::key : State::value;
      return Step::more;
    }
    if (c == open_.back()) {
      open_.pop_back();
      return after_value();
    }
    return Step::error;
  default:
    return start_value(c);
  }
}

JsonScanner::Step JsonScanner::put(char c) {
  switch (state_) {
  case State::string:
    if (c == '"') {
      if (in_key_) {
        state_ = State::colon;
        return Step::more;
      }
      return after_value();
    }
    if (c == '\\') {
      state_ = State::escape;
    }
    return static_cast<unsigned char>(c) < 0x20 ? Step::error : Step::more;
  case State::escape:
    if (c == 'u') {
      hex_left_ = 4;
      state_ = State::unicode;
      return Step::more;
    }
    state_ = State::string;
    return std::string_view("\"\\/bfnrt").find(c) != std::string_view::npos
        ? Step::more
        : Step::error;
  case State::unicode: {
    char lower = static_cast<char>(c | 0x20);
    if (--hex_left_ == 0) {
      state_ = State::string;
    }
    return is_digit(c) || (lower >= 'a' && lower <= 'f') ? Step::more
                                                         : Step::error;
  }
  case State::literal:
    if (literal_[word_.size()] != c) {
      return Step::error;
    }
    word_ += c;
    return literal_[word_.size()] == '\0' ? after_value() : Step::more;
  case State::number:
    if (number_goes_on(c)) {
      word_ += c;
      return Step::more;
    }
    if (!number_complete()) {
      return Step::error;
    }
    if (open_.empty()) {
      return Step::done_before;
    }
    state_ = State::comma_or_end;
    return structure(c);
  default:
    return structure(c);
  }
}

} // namespace qwen3_mlx
