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

int KVState::capacity(std::string_view name) const {
  const auto array = positions(name);
  return array ? array->shape(2) : 0;
}

} // namespace qwen3_mlx
