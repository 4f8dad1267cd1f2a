// SPDX-License-Identifier: MIT
#include "tokenizer/json_window.h"

#include <simdjson.h>

#include <algorithm>
#include <utility>

namespace qwen3_mlx {
namespace {

std::optional<char> unescape(char name) {
  switch (name) {
  case '"':
  case '\\':
  case '/':
    return name;
  case 'b':
    return '\b';
  case 'f':
    return '\f';
  case 'n':
    return '\n';
  case 'r':
    return '\r';
  case 't':
    return '\t';
  default:
    return std::nullopt;
  }
}

} // namespace

JsonWindow::JsonWindow(const TextSource& source)
    : source_(source), buffer_bytes_(static_cast<std::size_t>(
                           std::min<std::uint64_t>(source.size, max_buffer))),
      buffer_(buffer_bytes_ + padding), pos_(buffer_.data()), end_(pos_),
      kept_(pos_) {
  refill();
}

std::optional<std::uint32_t> JsonWindow::number(std::uint32_t last) {
  skip_space();
  const char* const start = pos_;
  std::uint32_t value = 0;
  while (*pos_ >= '0' && *pos_ <= '9' && value <= last) {
    value = value * 10 + static_cast<std::uint32_t>(*pos_++ - '0');
  }
  const bool is_plain = pos_ != start && (*start != '0' || pos_ == start + 1);
  return is_plain && value <= last ? std::optional(value) : std::nullopt;
}

bool JsonWindow::skip() {
  skip_space();
  std::size_t depth = 0;
  do {
    switch (*pos_) {
    case '"':
      if (!string()) {
        return false;
      }
      release();
      continue;
    case '{':
    case '[':
      ++depth;
      break;
    case '}':
    case ']':
      if (depth == 0) {
        return false;
      }
      --depth;
      break;
    case '\0':
      return false;
    default:
      if (depth == 0) {
        skip_scalar();
        return true;
      }
    }
    ++pos_;
  } while (depth > 0);
  return true;
}

/// Stops at a byte that follows a value, or that is no JSON.
void JsonWindow::skip_scalar() {
  while (std::strchr(",]} \n\r\t", *pos_) == nullptr) {
    ++pos_;
  }
}

/// The rest of a string from its first backslash on.
std::optional<std::string_view>
JsonWindow::escaped_string(std::string_view start) {
  std::string text(start);
  while (*pos_ == '\\') {
    const auto value = unescape(pos_[1]);
    if (!value) {
      return std::nullopt;
    }
    text += *value;
    const char* const plain = pos_ + 2;
    pos_ = find_stop(plain);
    text.append(plain, pos_);
  }
  if (*pos_ != '"') {
    return std::nullopt;
  }
  ++pos_;
  return unescaped_.emplace_back(std::move(text));
}

void JsonWindow::refill() {
  if (is_replacing_) {
    is_utf8_ = check_utf8();
  } else {
    keep_rest();
  }
  unescaped_.clear();
  const auto left = static_cast<std::size_t>(end_ - pos_);
  std::memmove(buffer_.data(), pos_, left);
  const auto n_bytes = static_cast<std::size_t>(
      std::min<std::uint64_t>(buffer_bytes_ - left, source_.size - offset_));
  source_.read(offset_, n_bytes, buffer_.data() + left);
  offset_ += n_bytes;
  pos_ = buffer_.data();
  kept_ = pos_;
  end_ = pos_ + left + n_bytes;
  std::fill_n(buffer_.data() + left + n_bytes, padding, '\0');
}

void JsonWindow::keep_rest() {
  rest_.append(kept_, pos_);
  kept_ = pos_;
}

/// Whether the value so far is UTF-8. It ends behind a whole token.
bool JsonWindow::check_utf8() {
  const auto n_bytes = static_cast<std::size_t>(pos_ - kept_);
  const bool is_valid = is_utf8_ && simdjson::validate_utf8(kept_, n_bytes);
  kept_ = pos_;
  return is_valid;
}

std::string JsonWindow::take_rest() {
  while (true) {
    pos_ = end_;
    keep_rest();
    if (is_at_end()) {
      return std::move(rest_);
    }
    refill();
  }
}

} // namespace qwen3_mlx
