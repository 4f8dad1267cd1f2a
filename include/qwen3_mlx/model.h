// SPDX-License-Identifier: MIT
// A language model loaded from a checkpoint, whatever its architecture.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "mlx/array.h"
#include "mlx/device.h"
#include "qwen3_mlx/generation_config.h"
#include "qwen3_mlx/kv_cache.h"
#include "qwen3_mlx/matrix.h"
#include "qwen3_mlx/model_args.h"
#include "qwen3_mlx/most_likely.h"
#include "qwen3_mlx/nn/model_impl.h"
#include "qwen3_mlx/step_input.h"

namespace qwen3_mlx {
namespace mx = mlx::core;

/// Whose kernels run the model: this project's where it has them for the
/// device, or MLX's stock operations everywhere.
enum class Kernels { native, stock };

struct LoadOptions {
  std::optional<mx::Device> device; ///< Default: MLX's default device.
  /// Of activations and plain weights. Default: the checkpoint's; float16 for
  /// a GGUF; always float32 with stock kernels on the CPU, where MLX's sums in
  /// narrower types are inexact.
  std::optional<mx::Dtype> dtype;
  Kernels kernels = Kernels::native;
  /// Native kernels on the CPU: activations stay in float32 where they meet
  /// quantized weights; else they are rounded to int8 for each group, which is
  /// two to three times as fast and may turn a token that wins narrowly
  /// (benchmarks/quality: under 2 % of the default model's greedy tokens,
  /// perplexity unchanged to 0.1 %). On an NVIDIA GPU: what a text gets does
  /// not depend, to the bit, on what is computed beside it or how its prompt is
  /// cut; else products of more than 5 rows are cut by their number. Steps are
  /// then not recorded, and many rows are multiplied eight at a time.
  bool exact = false;
  /// Native kernels on the CPU: threads; 0 is one a physical core.
  int threads = 0;
  /// Called from the loading thread with the bytes read so far and in all.
  std::function<void(std::uint64_t done, std::uint64_t total)> progress;
};

/// One tensor of the checkpoint, for listings.
struct TensorSummary {
  std::string name;
  std::string dtype; ///< As stored: "bfloat16", "uint32", "Q4_1", ...
  std::vector<std::int64_t> shape;
  std::uint64_t n_bytes = 0;
  /// Of the matrix it belongs to (a matrix itself, its scales or biases); plain
  /// for what is not quantized.
  QuantFormat format;
};

/// A decoder-only language model. Copies share the weights, which are
/// evaluated: a model may be loaded on one thread and used on another, by one
/// thread at a time for each cache.
class Model {
 public:
  const ModelArgs& args() const;
  const GenerationConfig& generation_config() const;
  /// Ids that end a text: generation_config.json's, else config.json's.
  const std::vector<std::uint32_t>& eos_token_ids() const;
  mx::Device device() const;
  const std::filesystem::path& path() const;
  const std::vector<TensorSummary>& tensors() const;
  /// Stands for the config, the tensor table and a sample of each tensor; binds
  /// saved caches to the model.
  const std::string& fingerprint() const;

  /// An empty cache for each layer.
  std::vector<KVCache> make_cache(const CacheOptions& options = {}) const;

  /// tokens [B, L] uint32 or int32, B sequences in step, at the position that
  /// `cache` (one per layer) has reached. Returns logits [B, L, vocab_size].
  /// Throws InvalidArgument for ids from vocab_size on, where they lie in
  /// memory already and the model is on the CPU; those of a step that is still
  /// to run are not waited for.
  mx::array
  operator()(const mx::array& tokens, std::vector<KVCache>& cache) const;
  /// Ragged input; returns logits [R, vocab_size]. Throws InvalidArgument when
  /// segments, tokens and rows do not fit together.
  mx::array forward(const StepInput& step) const;

  /// The most likely ids of logits [n, vocab_size] that forward() gave.
  MostLikely most_likely(const mx::array& logits) const;

  /// Whether a step of one new token of each of several sequences is recorded
  /// and replayed (on NVIDIA GPUs, by this project's kernels). There it should
  /// come without longer segments, and in few different numbers of sequences.
  bool replays_decode_steps() const;

  /// The typed model behind the handle, as qwen3::Model, or null when the
  /// architecture is another.
  template <class T>
  const T* as() const {
    return dynamic_cast<const T*>(&impl());
  }

  struct State;
  explicit Model(std::shared_ptr<const State> state);

 private:
  const ModelImpl& impl() const;

  std::shared_ptr<const State> state_;
};

/// Loads a checkpoint: a directory (config.json with safetensors files) or a
/// .gguf file. The architecture is picked by "model_type".
/// Throws FileError, FieldError or TensorError, which name file and field.
Model load_model(
    const std::filesystem::path& path,
    const LoadOptions& options = {});

/// A model of that shape with random weights, quantized as `args` says; for
/// benchmarks.
Model make_random_model(
    const ModelArgs& args,
    std::uint64_t seed = 0,
    const LoadOptions& options = {});

} // namespace qwen3_mlx
