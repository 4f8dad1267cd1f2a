// SPDX-License-Identifier: MIT
#include "weights/stored_format.h"

#include <string>

namespace qwen3_mlx {

std::optional<QuantFormat> block_format(StoredType type) {
  switch (type) {
  case StoredType::q4_0:
  case StoredType::q4_1:
    return QuantFormat{QuantMode::affine, 4, 32};
  case StoredType::q8_0:
    return QuantFormat{QuantMode::affine, 8, 32};
  case StoredType::mxfp4:
    return QuantFormat{QuantMode::mxfp4, 4, 32};
  default:
    return std::nullopt;
  }
}

std::string_view module_of(std::string_view tensor) {
  return tensor.substr(0, tensor.rfind('.'));
}

QuantFormat stored_format(
    const Checkpoint& checkpoint,
    const std::optional<QuantizationConfig>& quantization,
    std::string_view name) {
  const auto module = module_of(name);
  const auto* tensor = checkpoint.find(name);
  if (name.ends_with(".scales") || name.ends_with(".biases")) {
    tensor = checkpoint.find(std::string(module) + ".weight");
  }
  if (tensor == nullptr) {
    return {};
  }
  if (const auto format = block_format(tensor->type)) {
    return *format;
  }
  return quantization && tensor->type == StoredType::u32
      ? quantization->format_of(module, module_of(tensor->source_name))
      : QuantFormat{};
}

} // namespace qwen3_mlx
