// SPDX-License-Identifier: MIT
// Loading as a plan: the model is built first and takes each tensor once, then
// all of them are read in parallel straight into their final memory.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>

#include "mlx/dtype.h"
#include "qwen3_mlx/model_args.h"
#include "weights/checkpoint.h"
#include "weights/weights.h"

namespace qwen3_mlx {
namespace cpu {
struct Runtime;
}
namespace cuda {
struct Runtime;
}

/// Called on the thread that loads, with bytes of the checkpoint.
using LoadProgress =
    std::function<void(std::uint64_t done, std::uint64_t total)>;

struct PlanOptions {
  /// Of activations and all floats of the weights. Default: the dtype of the
  /// quantization scales where the model is quantized, else config.json's, else
  /// the embedding's; float16 for GGUF files.
  std::optional<mx::Dtype> dtype;
  /// Every float weight, scale and bias becomes float32 (stock ops on the CPU).
  bool widen = false;
  /// Matrices are put into the layout of the CPU kernels while reading.
  std::shared_ptr<cpu::Runtime> tiles;
  /// The same for the CUDA kernels.
  std::shared_ptr<cuda::Runtime> blocks;
};

/// One loading of one checkpoint.
class LoadPlan {
 public:
  /// `args` must be the checkpoint's own.
  LoadPlan(Checkpoint checkpoint, const ModelArgs& args, PlanOptions = {});
  /// A plan without files: every matrix has `args`' quantization and random
  /// contents of sane size, for benchmarks of shapes.
  static LoadPlan
  random(const ModelArgs& args, std::uint64_t seed, PlanOptions = {});

  /// The view with the empty prefix: weights().sub("model").sub("layers", 0).
  Weights weights() const;

  /// Fills everything that was taken. Throws TensorError that lists every
  /// tensor which is missing, left over or of the wrong shape or type, and
  /// FileError when a file ends early. `n_threads` 0: one per core.
  void read(int n_threads = 0, const LoadProgress& progress = {});

  /// Bytes that read() will read.
  std::uint64_t n_bytes() const;

 private:
  explicit LoadPlan(std::shared_ptr<PlanState> state);

  std::shared_ptr<PlanState> state_;
};

} // namespace qwen3_mlx
