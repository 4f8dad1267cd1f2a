// SPDX-License-Identifier: MIT
// A decode step recorded once and run again: one CUDA graph instead of some
// hundred operations that the host builds, evaluates and launches one by one.
#pragma once

#include <memory>
#include <vector>

#include "kernels/cuda/runtime.h"
#include "mlx/array.h"

namespace qwen3_mlx::cuda {

/// What a recorded step is made for.
struct StepForm {
  int num_sequences = 1; ///< One token each.
  int max_splits = 1;    ///< Of a sequence's positions, see step_splits().
};

/// The parts in which attention looks at a sequence of so many positions,
/// rounded up, so that few steps need recording.
int step_splits(int length);

/// The caches of a step, layer by layer, segment by segment in each.
struct StepCaches {
  struct Segment {
    mx::array keys; ///< [B, n_kv_heads, capacity, head_dim]
    mx::array values;
    std::vector<mx::array> scales; ///< CacheSegment's
  };
  std::vector<Segment> segments;
  std::vector<int> offsets; ///< Positions held, of each sequence.
  /// What wrote to them last and may not have been evaluated.
  std::vector<mx::array> after;
};

/// One recorded step. Its memory is its own, so steps of one graph run after
/// each other, on one stream.
class StepGraph {
 public:
  /// Records what `logits`, not evaluated, is made of; null when some of it is
  /// not of this project's operations. `tokens` is what a later step replaces.
  static std::shared_ptr<StepGraph> record(
      const mx::array& tokens,
      const mx::array& logits,
      const StepForm& form);

  virtual ~StepGraph() = default;

  /// Of activations, keys and values.
  virtual mx::Dtype dtype() const = 0;

  /// Logits of a step over these tokens and caches.
  virtual mx::array replay(const mx::array& tokens, StepCaches caches) = 0;
  /// An evaluated array in the GPU's memory whose elements may be anything.
  virtual mx::array
  make_array(const mx::Shape& shape, mx::Dtype dtype) const = 0;
};

} // namespace qwen3_mlx::cuda
