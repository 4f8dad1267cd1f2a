// SPDX-License-Identifier: MIT
// Follows one JSON value character by character, without building it.
#pragma once

#include <string>

namespace qwen3_mlx {

class JsonScanner {
 public:
  enum class Step {
    more,        ///< The character belongs to the value, which goes on.
    done,        ///< The character ends the value.
    done_before, ///< The value ended before the character (numbers, literals).
    error
  };
  /// Leading white space is not part of the value: do not feed it.
  Step put(char c);

 private:
  enum class State {
    value,
    value_or_end, // after "["
    key_or_end,   // after "{"
    key,          // after "," in an object
    string,
    escape,
    unicode,
    colon,
    comma_or_end,
    literal,
    number
  };
  Step start_value(char c);
  Step after_value();
  Step structure(char c);
  bool number_goes_on(char c);
  bool number_complete() const;

  State state_ = State::value;
  std::string open_; // Closing brackets that are due.
  bool in_key_ = false;
  std::string word_; // The literal or number so far.
  const char* literal_ = "";
  int hex_left_ = 0;
};

} // namespace qwen3_mlx
