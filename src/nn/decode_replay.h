// SPDX-License-Identifier: MIT
// Decode steps on an NVIDIA GPU, recorded and replayed.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <tuple>

#include "kernels/cuda/step_graph.h"
#include "mlx/array.h"
#include "qwen3_mlx/model_args.h"
#include "qwen3_mlx/step_input.h"

namespace qwen3_mlx {
namespace mx = mlx::core;

/// Runs steps of one new token a sequence as recorded graphs, one for each
/// number of sequences. What does not fit into one runs as it would without.
/// One model's; may be used from several threads.
class DecodeReplay {
 public:
  explicit DecodeReplay(const ModelArgs& args);

  /// Whether steps of this model can be replayed at all.
  bool replays() const {
    return has_lasting_rope_;
  }
  /// Logits of the step; `build` makes its operations.
  mx::array forward(
      const StepInput& step,
      const std::function<mx::array(const StepInput&)>& build);

 private:
  // Sequences, parts of the longest one's positions, bits of what caches hold
  // and their groups, and MLX's stream: a graph has its own memory.
  using Key = std::tuple<int, int, int, int, int>;
  struct Entry {
    int num_seen = 0; // before it was recorded
    std::shared_ptr<cuda::StepGraph> graph;
    bool cannot = false;
    std::uint64_t last_use = 0;
  };

  bool fits(const StepInput& step) const;
  Entry& entry_of(const Key& key);
  std::optional<mx::array>
  replay(cuda::StepGraph& graph, const StepInput& step) const;

  int num_layers_;
  bool has_lasting_rope_;
  // Of keys and values at one position.
  int n_kv_heads_;
  int head_dim_;
  std::mutex mutex_;
  std::map<Key, Entry> entries_; // by mutex_
  std::uint64_t num_uses_ = 0;   // by mutex_
};

} // namespace qwen3_mlx
