// SPDX-License-Identifier: MIT
// Reading a GGUF header from the front.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "base/file.h"
#include "formats/checked.h"
#include "qwen3_mlx/error.h"

namespace qwen3_mlx::gguf {

/// Reads a file from the front through a small buffer, never past its end.
class Cursor {
 public:
  explicit Cursor(const File& file) : file_(file) {}

  std::uint64_t offset() const {
    return window_start_ + position_;
  }
  std::uint64_t remaining() const {
    return file_.size() - offset();
  }

  /// `what` names the thing being read in the error.
  void bytes(void* out, std::size_t n_bytes, std::string_view what) {
    if (n_bytes > remaining()) {
      throw FieldError(
          file_.path(),
          printable(what),
          "at byte " + std::to_string(offset()) + " expected " +
              std::to_string(n_bytes) + " more bytes, found " +
              std::to_string(remaining()) +
              "; the file is truncated, fetch it again");
    }
    auto* to = static_cast<char*>(out);
    while (n_bytes > 0) {
      if (position_ == window_.size()) {
        refill();
      }
      const auto count = std::min(n_bytes, window_.size() - position_);
      std::memcpy(to, window_.data() + position_, count);
      position_ += count;
      to += count;
      n_bytes -= count;
    }
  }

  template <typename T>
  T read(std::string_view what) {
    T value;
    bytes(&value, sizeof(T), what);
    return value;
  }

  std::string string(std::string_view what, std::uint64_t max_bytes) {
    const auto start = offset();
    const auto n_bytes = read<std::uint64_t>(what);
    if (n_bytes > max_bytes || n_bytes > remaining()) {
      throw FieldError(
          file_.path(),
          printable(what),
          "the string at byte " + std::to_string(start) + " has " +
              std::to_string(n_bytes) + " bytes, expected at most " +
              std::to_string(std::min(max_bytes, remaining())));
    }
    std::string out(static_cast<std::size_t>(n_bytes), '\0');
    bytes(out.data(), out.size(), what);
    return out;
  }

 private:
  void refill() {
    constexpr std::uint64_t window_bytes = 1 << 18;
    window_start_ += window_.size();
    position_ = 0;
    window_.resize(static_cast<std::size_t>(
        std::min(window_bytes, file_.size() - window_start_)));
    file_.read(window_start_, window_.size(), window_.data());
  }

  const File& file_;
  std::vector<char> window_;
  std::uint64_t window_start_ = 0;
  std::size_t position_ = 0;
};

} // namespace qwen3_mlx::gguf
