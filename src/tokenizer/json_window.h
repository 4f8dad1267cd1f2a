// SPDX-License-Identifier: MIT
// Walks JSON text through a small buffer. Every function gives false or nothing
// at what it does not know, and first of all at the zeros behind the text in
// the buffer: so no other end is checked, and what does not fit the buffer is
// not known either.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/model_lists.h"

namespace qwen3_mlx {

class JsonWindow {
 public:
  explicit JsonWindow(const TextSource& source);
  JsonWindow(const JsonWindow&) = delete;
  JsonWindow& operator=(const JsonWindow&) = delete;

  /// Whether `expected` is next, behind white space; goes behind it.
  bool take(char expected) {
    skip_space();
    if (*pos_ != expected) {
      return false;
    }
    ++pos_;
    return true;
  }

  /// A string, which is there until the field or element that it is in ends.
  std::optional<std::string_view> string() {
    if (!take('"')) {
      return std::nullopt;
    }
    const char* const start = pos_;
    pos_ = find_stop(pos_);
    const std::string_view plain(start, static_cast<std::size_t>(pos_ - start));
    if (*pos_ == '"') {
      ++pos_;
      return plain;
    }
    return *pos_ == '\\' ? escaped_string(plain) : std::nullopt;
  }

  /// A whole number up to `last`, which is below 2^28; no other.
  std::optional<std::uint32_t> number(std::uint32_t last);

  /// Calls on_field(key) for each field of an object; it takes the value. The
  /// key and what on_field() reads are there until it returns.
  template <typename OnField>
  bool object(OnField on_field) {
    if (!take('{')) {
      return false;
    }
    if (take('}')) {
      return true;
    }
    do {
      release();
      const auto key = string();
      if (!key || !take(':') || !on_field(*key)) {
        return false;
      }
    } while (take(','));
    return take('}');
  }

  /// Calls on_element() for each element of a list; it takes the element.
  template <typename OnElement>
  bool list(OnElement on_element) {
    if (!take('[')) {
      return false;
    }
    if (take(']')) {
      return true;
    }
    do {
      release();
      if (!on_element()) {
        return false;
      }
    } while (take(','));
    return take(']');
  }

  /// Goes behind a value. Right for JSON; what is none the parser finds.
  bool skip();

  /// Has read_value() take a value, and puts `instead` in its place in rest().
  /// False when it does, or when the value is not UTF-8.
  template <typename Read>
  bool replace(std::string_view instead, Read read_value) {
    skip_space();
    keep_rest();
    rest_ += instead;
    is_replacing_ = true;
    if (!read_value() || !check_utf8()) {
      return false;
    }
    is_replacing_ = false;
    return true;
  }

  /// The text from start to end but for what was replaced; asked for once.
  std::string take_rest();

 private:
  // Fits the second cache. A token of more than min_ahead is not known.
  static constexpr std::size_t max_buffer = std::size_t{1} << 18;
  static constexpr std::ptrdiff_t min_ahead = std::ptrdiff_t{1} << 14;
  static constexpr std::size_t padding = 8;

  void skip_space() {
    while (*pos_ == ' ' || *pos_ == '\n' || *pos_ == '\r' || *pos_ == '\t') {
      ++pos_;
    }
  }

  static constexpr std::uint64_t every_byte = 0x0101010101010101;

  /// The high bit of each byte of `word` below `limit`, which is at most 0x80.
  /// Right up to the lowest such byte, which is all that is asked for.
  static constexpr std::uint64_t
  bytes_below(std::uint64_t word, std::uint8_t limit) {
    return (word - limit * every_byte) & ~word & (0x80 * every_byte);
  }
  static constexpr std::uint64_t bytes_equal(std::uint64_t word, char value) {
    return bytes_below(word ^ static_cast<std::uint8_t>(value) * every_byte, 1);
  }

  /// The next quote, backslash or control character.
  static const char* find_stop(const char* pos) {
    while (true) {
      std::uint64_t word = 0;
      std::memcpy(&word, pos, sizeof(word));
      const auto stops = bytes_equal(word, '"') | bytes_equal(word, '\\') |
          bytes_below(word, 0x20);
      if (stops != 0) {
        return pos + std::countr_zero(stops) / 8;
      }
      pos += sizeof(word);
    }
  }

  bool is_at_end() const {
    return offset_ == source_.size;
  }
  /// Ends the use of strings so far, and reads on where the buffer is low.
  void release() {
    if (end_ - pos_ < min_ahead && !is_at_end()) {
      refill();
    }
  }
  void refill();
  void skip_scalar();
  void keep_rest();
  bool check_utf8();
  std::optional<std::string_view> escaped_string(std::string_view start);

  const TextSource& source_;
  std::uint64_t offset_ = 0; // Of the source, behind what is in the buffer.
  std::size_t buffer_bytes_;
  std::vector<char> buffer_;
  const char* pos_;
  const char* end_;  // Here the padding begins.
  const char* kept_; // Up to here the text is in rest_, or checked.
  std::string rest_;
  bool is_replacing_ = false;
  bool is_utf8_ = true;
  std::deque<std::string> unescaped_; // Strings that are not as in the text.
};

} // namespace qwen3_mlx
