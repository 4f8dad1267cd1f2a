// SPDX-License-Identifier: MIT
// Stands in for the library fmt, which MLX's CUDA headers use for the texts of
// errors and its package does not ship.
#pragma once

#include <string>

namespace fmt {

template <class... Args>
std::string format(const char* pattern, Args&&...) {
  return pattern;
}

} // namespace fmt
