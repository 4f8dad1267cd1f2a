// SPDX-License-Identifier: MIT
// Rows that nobody asked for. A decode step that is recorded as a graph (nn/
// decode_replay.h) is one of a certain number of sequences: with every number
// between 1 and 256 there would be recordings without end. So a step is filled
// up to one of a few numbers.
#pragma once

#include <vector>

#include "qwen3_mlx/model.h"

namespace qwen3_mlx::engine {

/// The numbers of sequences that steps are filled up to: all up to 8, then
/// multiples of 8, from 64 on of 16 and from 256 on of 32.
int filled_batch(int num_sequences);

/// Sequences of their own, each a token or more long, whose next token is
/// computed and dropped. Belongs to the engine's thread.
class FillerRows {
 public:
  explicit FillerRows(Model model);

  /// `count` segments of one token each. They hold until the next call.
  std::vector<Segment> segments(int count);

 private:
  using Caches = std::vector<KVCache>; // one a layer

  Caches make() const;

  Model model_;
  std::vector<Caches> rows_;
};

} // namespace qwen3_mlx::engine
