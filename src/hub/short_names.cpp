// SPDX-License-Identifier: MIT
#include <array>

#include "hub/reference.h"

namespace qwen3_mlx::hub {
namespace {

constexpr auto names = std::to_array<ShortName>({
    {"qwen3:0.6b", "mlx-community/Qwen3-0.6B-4bit"},
    {"qwen3:1.7b", "mlx-community/Qwen3-1.7B-4bit"},
    {"qwen3:4b", "mlx-community/Qwen3-4B-4bit"},
    {"qwen3:8b", "mlx-community/Qwen3-8B-4bit"},
    {"qwen3:14b", "mlx-community/Qwen3-14B-4bit"},
    {"qwen3:32b", "mlx-community/Qwen3-32B-4bit"},
    {"qwen3:30b-a3b", "mlx-community/Qwen3-30B-A3B-4bit"},
    {"qwen3:235b-a22b", "mlx-community/Qwen3-235B-A22B-4bit"},
    {"qwen3:4b-instruct", "mlx-community/Qwen3-4B-Instruct-2507-4bit"},
    {"qwen3:4b-thinking", "mlx-community/Qwen3-4B-Thinking-2507-4bit"},
    {"qwen3:30b-a3b-instruct",
     "mlx-community/Qwen3-30B-A3B-Instruct-2507-4bit"},
    {"qwen3:30b-a3b-thinking",
     "mlx-community/Qwen3-30B-A3B-Thinking-2507-4bit"},
    {"qwen3-coder:30b-a3b", "mlx-community/Qwen3-Coder-30B-A3B-Instruct-4bit"},
    {"qwen2.5:0.5b", "mlx-community/Qwen2.5-0.5B-Instruct-4bit"},
    {"qwen2.5:1.5b", "mlx-community/Qwen2.5-1.5B-Instruct-4bit"},
    {"qwen2.5:3b", "mlx-community/Qwen2.5-3B-Instruct-4bit"},
    {"qwen2.5:7b", "mlx-community/Qwen2.5-7B-Instruct-4bit"},
    {"qwen2.5:14b", "mlx-community/Qwen2.5-14B-Instruct-4bit"},
    {"qwen2.5:32b", "mlx-community/Qwen2.5-32B-Instruct-4bit"},
    {"qwen2.5:72b", "mlx-community/Qwen2.5-72B-Instruct-4bit"},
    {"qwen2.5-coder:1.5b", "mlx-community/Qwen2.5-Coder-1.5B-Instruct-4bit"},
    {"qwen2.5-coder:7b", "mlx-community/Qwen2.5-Coder-7B-Instruct-4bit"},
    {"qwen2.5-coder:14b", "mlx-community/Qwen2.5-Coder-14B-Instruct-4bit"},
    {"qwen2.5-coder:32b", "mlx-community/Qwen2.5-Coder-32B-Instruct-4bit"},
});

} // namespace

std::span<const ShortName> short_names() {
  return names;
}

} // namespace qwen3_mlx::hub
