// SPDX-License-Identifier: MIT
#include "nn/kv_state.h"

#include "qwen3_mlx/error.h"

namespace qwen3_mlx {

int KVState::counter(std::string_view name, int low, int high) const {
  for (const auto& [key, value] : counters_) {
    if (key == name) {
      if (value < low || value > high) {
        throw InvalidArgument(
            "saved cache: " + key + " is " + std::to_string(value) +
            ", expected " + std::to_string(low) + " to " +
            std::to_string(high));
      }
      return value;
    }
  }
  throw InvalidArgument(
      "saved cache: counter " + std::string(name) + " is missing");
}

std::optional<mx::array> KVState::positions(std::string_view name) const {
  for (const auto& [key, array] : arrays_) {
    if (key == name) {
      if (array.ndim() != 4) {
        throw InvalidArgument(
            "saved cache: " + key + " has " + std::to_string(array.ndim()) +
            " dimensions, expected 4");
      }
      return array;
    }
  }
  return std::nullopt;
}

int KVState::capacity(std::initializer_list<std::string_view> names) const {
  std::optional<int> common;
  for (const auto name : names) {
    const auto array = positions(name);
    const int length = array ? array->shape(2) : 0;
    if (length != common.value_or(length)) {
      throw InvalidArgument(
          "saved cache: " + std::string(name) + " holds " +
          std::to_string(length) + " positions, expected the " +
          std::to_string(*common) + " of " + std::string(*names.begin()));
    }
    common = length;
  }
  return common.value_or(0);
}

} // namespace qwen3_mlx
