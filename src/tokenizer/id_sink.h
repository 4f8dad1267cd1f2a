// SPDX-License-Identifier: MIT
// Where encoding appends ids: a vector whose unused tail is already there, so
// that an id costs a store and not a capacity check.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace qwen3_mlx {

class IdSink {
 public:
  explicit IdSink(std::size_t expected) : ids_(expected + slack) {}

  /// Space for `count` more ids (up to 8 are always there). Not counted until
  /// advance().
  std::uint32_t* reserve(std::size_t count) {
    if (ids_.size() - size_ < count + slack) {
      ids_.resize(
          std::max(ids_.size() + ids_.size() / 2, size_ + count + slack));
    }
    return ids_.data() + size_;
  }
  void advance(std::size_t count) {
    size_ += count;
  }
  void push(std::uint32_t id) {
    *reserve(1) = id;
    ++size_;
  }
  std::size_t size() const {
    return size_;
  }
  const std::uint32_t* data() const {
    return ids_.data();
  }

  std::vector<std::uint32_t> take() && {
    ids_.resize(size_);
    return std::move(ids_);
  }

 private:
  static constexpr std::size_t slack = 8;
  std::vector<std::uint32_t> ids_;
  std::size_t size_ = 0;
};

} // namespace qwen3_mlx
