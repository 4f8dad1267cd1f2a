// SPDX-License-Identifier: MIT
// The table of architectures.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "qwen3_mlx/model.h"

namespace qwen3_mlx {

class Weights;

// One line per architecture: the name is config.json's "model_type", the file
// src/models/<name>.cpp and the namespace that defines make_model().
#define QWEN3_MLX_FOR_EACH_ARCHITECTURE(X) \
  X(llama)                                 \
  X(qwen2)                                 \
  X(qwen2_moe)                             \
  X(qwen3)                                 \
  X(qwen3_moe)

#define QWEN3_MLX_DECLARE_ARCHITECTURE(name)           \
  namespace name {                                     \
  std::unique_ptr<ModelImpl>                           \
  make_model(const ModelArgs& args, const Weights& w); \
  }
QWEN3_MLX_FOR_EACH_ARCHITECTURE(QWEN3_MLX_DECLARE_ARCHITECTURE)
#undef QWEN3_MLX_DECLARE_ARCHITECTURE

/// Builds a model of `args.model_type`, taking its tensors from `w`.
using MakeModel =
    std::unique_ptr<ModelImpl> (*)(const ModelArgs& args, const Weights& w);

struct Architecture {
  std::string_view model_type;
  MakeModel make_model;
};

const std::vector<Architecture>& architectures();

/// Throws InvalidArgument listing the known ones when there is none of that
/// name.
const Architecture& find_architecture(std::string_view model_type);

/// load_model() that throws FieldError when config.json names another type.
Model load_model_of_type(
    std::string_view model_type,
    const std::filesystem::path& path,
    const LoadOptions& options);

} // namespace qwen3_mlx
