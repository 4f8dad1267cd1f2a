// SPDX-License-Identifier: MIT
#include "models/registry.h"

#include "qwen3_mlx/error.h"

namespace qwen3_mlx {

const std::vector<Architecture>& architectures() {
#define QWEN3_MLX_ROW(name) {#name, name::make_model},
  static const std::vector<Architecture> table = {
      QWEN3_MLX_FOR_EACH_ARCHITECTURE(QWEN3_MLX_ROW)};
#undef QWEN3_MLX_ROW
  return table;
}

const Architecture& find_architecture(std::string_view model_type) {
  std::string known;
  for (const auto& architecture : architectures()) {
    if (architecture.model_type == model_type) {
      return architecture;
    }
    known += known.empty() ? "" : ", ";
    known += architecture.model_type;
  }
  throw InvalidArgument(
      "model_type \"" + std::string(model_type) +
      "\" is not supported; known are " + known);
}

} // namespace qwen3_mlx
