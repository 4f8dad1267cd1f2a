// SPDX-License-Identifier: MIT
// The one virtual border: what every architecture implements.
#pragma once

#include "mlx/array.h"
#include "qwen3_mlx/step_input.h"

namespace qwen3_mlx {
namespace mx = mlx::core;

/// What an architecture implements; see models/registry.h.
class ModelImpl {
 public:
  virtual ~ModelImpl() = default;
  /// Logits [R, vocab_size] of step.logits_rows.
  virtual mx::array forward(const StepInput& step) const = 0;
};

} // namespace qwen3_mlx
