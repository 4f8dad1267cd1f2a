// SPDX-License-Identifier: MIT
// Files that the build puts into the program: the chat page and the OpenAPI
// document.
#pragma once

#include <span>
#include <string_view>

namespace qwen3_mlx::server {

struct Asset {
  std::string_view path; ///< As in "/app.js".
  std::string_view content_type;
  std::string_view content;
};

std::span<const Asset> assets();
/// Null when there is no such file.
const Asset* find_asset(std::string_view path);

} // namespace qwen3_mlx::server
