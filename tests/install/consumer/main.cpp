// SPDX-License-Identifier: MIT
// Uses both halves of the library: arrays, and what works without them.
#include <cstdio>

#include <mlx/mlx.h>

#include "qwen3_mlx/error.h"

int main() {
  namespace mx = mlx::core;
  try {
    throw qwen3_mlx::FileError("config.json", "is missing");
  } catch (const qwen3_mlx::Error& error) {
    std::puts(error.what());
  }
  const int sum = mx::sum(mx::ones({3}, mx::int32)).item<int>();
  std::printf("sum %d\n", sum);
  return sum == 3 ? 0 : 1;
}
