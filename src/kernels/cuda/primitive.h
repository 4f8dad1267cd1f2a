// SPDX-License-Identifier: MIT
// What the operations have in common: they run at once, on MLX's stream, or are
// recorded into the graph of a step (step_graph.h).
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "kernels/cuda/kernels.h"
#include "kernels/cuda/runtime_state.h"
#include "mlx/array.h"
#include "mlx/primitives.h"

namespace qwen3_mlx::cuda {

/// Where an operation runs and its operands lie.
class Operands {
 public:
  Operands() = default;
  Operands(const Operands&) = delete;
  Operands& operator=(const Operands&) = delete;
  virtual ~Operands() = default;

  virtual Launcher launcher() = 0;
  virtual void* input(const mx::array& array) = 0;
  /// Memory for an array that the operation makes.
  virtual void* output(mx::array& array) = 0;
  /// Memory that lives until the operation has run.
  virtual void* temporary(std::size_t n_bytes) = 0;
  /// Counters for attention, zero whenever no kernel runs.
  virtual unsigned* counters(std::size_t count) = 0;
  /// The sequences of the next layer, and positions that the embedding is to
  /// advance; nothing unless a step is recorded.
  virtual const DecodeTable* next_layer() {
    return nullptr;
  }
  virtual Advance advance() {
    return {};
  }
};

/// What a product needs besides its arguments.
struct ProductRoom {
  float* workspace;
  unsigned* counters;
};
ProductRoom room_for(Operands& operands, const GemmNeeds& needs);

/// The dtypes that kernels read and write.
std::optional<Float> float_of(mx::Dtype dtype);
Float type_of(const mx::array& array);

/// An operation of these kernels, on the GPU alone.
class CudaPrimitive : public mx::UnaryPrimitive {
 public:
  explicit CudaPrimitive(std::shared_ptr<Runtime> runtime);

  /// Starts the kernels.
  virtual void
  run(Operands& operands,
      const std::vector<mx::array>& inputs,
      mx::array& out) = 0;
  /// Inputs from this one on are the caches of a step, which a recorded step
  /// finds by its table.
  virtual std::size_t num_lasting_inputs(std::size_t num_inputs) const {
    return num_inputs;
  }

  void eval_cpu(const std::vector<mx::array>&, mx::array&) final;
  void eval_gpu(const std::vector<mx::array>& inputs, mx::array& out) final;

  const std::shared_ptr<Runtime>& runtime() const {
    return runtime_;
  }

 private:
  std::shared_ptr<Runtime> runtime_;
};

/// Adds the sequences of keys and values [B, n_kv_heads, capacity, n]:
/// elements, or codes with `scales` (CacheSegment).
void append_sequences(
    const mx::array& keys,
    const mx::array& values,
    std::span<const mx::array> scales,
    int offset,
    std::vector<DecodeSequence>& sequences);

/// `x` with its rows side by side, as kernels read them. What this project's
/// own operations give is; of anything else MLX is asked to see to it.
mx::array dense(const mx::array& x);

} // namespace qwen3_mlx::cuda
