// SPDX-License-Identifier: MIT
#include "server/assets.h"

namespace qwen3_mlx::server {

const Asset* find_asset(std::string_view path) {
  for (const auto& asset : assets()) {
    if (asset.path == path) {
      return &asset;
    }
  }
  return nullptr;
}

} // namespace qwen3_mlx::server
