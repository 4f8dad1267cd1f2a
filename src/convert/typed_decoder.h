// SPDX-License-Identifier: MIT
// A model as the architecture that it is.
#pragma once

#include "qwen3_mlx/error.h"
#include "qwen3_mlx/model.h"
#include "qwen3_mlx/models/llama.h"
#include "qwen3_mlx/models/qwen2.h"
#include "qwen3_mlx/models/qwen2_moe.h"
#include "qwen3_mlx/models/qwen3.h"
#include "qwen3_mlx/models/qwen3_moe.h"

namespace qwen3_mlx {

/// function(const CausalLM<Block>&). Throws InvalidArgument for a model that
/// calibration cannot run layer by layer.
template <class Function>
auto with_decoder(const Model& model, const Function& function) {
  if (const auto* llama = model.as<llama::Model>()) {
    return function(*llama);
  }
  if (const auto* qwen2 = model.as<qwen2::Model>()) {
    return function(*qwen2);
  }
  if (const auto* qwen3 = model.as<qwen3::Model>()) {
    return function(*qwen3);
  }
  if (const auto* qwen2_moe = model.as<qwen2_moe::Model>()) {
    return function(*qwen2_moe);
  }
  if (const auto* qwen3_moe = model.as<qwen3_moe::Model>()) {
    return function(*qwen3_moe);
  }
  throw InvalidArgument(
      "calibration does not know how to run " + model.args().model_type);
}

} // namespace qwen3_mlx
