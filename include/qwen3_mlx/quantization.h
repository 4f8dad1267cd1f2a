// SPDX-License-Identifier: MIT
// Which modules of a checkpoint are quantized, and how: config.json's
// "quantization".
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "qwen3_mlx/config.h"
#include "qwen3_mlx/matrix.h"

namespace qwen3_mlx {

/// The model's format and what single modules have instead.
struct QuantizationConfig {
  QuantFormat format; ///< Of modules that are not listed.
  /// By module path, "model.layers.0.mlp.gate"; nothing: not quantized.
  std::map<std::string, std::optional<QuantFormat>, std::less<>> modules;

  /// What the config says of a module: by its canonical path, or by the file's
  /// own, as some exporters write it; else the model's format.
  QuantFormat
  format_of(std::string_view module, std::string_view source_module) const;

  int group_size() const {
    return format.group_size;
  }
  int bits() const {
    return format.bits;
  }
};

/// The formats MLX packs: affine with 2, 3, 4, 5, 6 or 8 bits in groups of 32,
/// 64 or 128; mxfp4 (4, 32), mxfp8 (8, 32), nvfp4 (4, 16).
bool is_supported(const QuantFormat& format);

/// "affine, 4 bits, groups of 64"
std::string describe(const QuantFormat& format);

/// From "quantization", or "quantization_config" as mlx-lm duplicates it;
/// nothing when the model is plain. Throws FieldError for what MLX cannot hold
/// and for foreign methods (awq, gptq, fp8 ...), which it names.
std::optional<QuantizationConfig> parse_quantization(const Config& config);

} // namespace qwen3_mlx
