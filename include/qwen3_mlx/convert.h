// SPDX-License-Identifier: MIT
// Turning one checkpoint into another: quantized, dequantized or in another
// float type, in the layout that mlx-lm and this library read.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "qwen3_mlx/matrix.h"

namespace qwen3_mlx {

/// mlx-lm's recipes: fewer bits for most matrices, more for values, down
/// projections and the head of some layers.
enum class MixedRecipe { none, mixed_2_6, mixed_3_4, mixed_3_6, mixed_4_6 };

/// What some modules get instead of the model's format.
struct ModuleRule {
  /// A module path, "model.layers.0.mlp.down_proj", in which "*" stands for any
  /// characters.
  std::string pattern;
  QuantFormat format; ///< Plain: not quantized.
};

/// Quantizing by what a text shows the matrices' inputs to be, instead of to
/// the nearest numbers.
struct CalibrationOptions {
  std::string text;          ///< Empty: a small one of this library's own.
  int sequence_length = 512; ///< Tokens that are read together.
  int max_tokens = 8192;     ///< Of the text's beginning.
  /// Bits per weight, scales and biases among them, that the quantized matrices
  /// have on average: each gets 2, 3, 4, 5, 6 or 8 bits, by what its errors
  /// do to the model's predictions.
  /// Absent: all get what `quantize` says.
  std::optional<double> target_bits = std::nullopt;
};

struct ConvertOptions {
  /// Of matrices whose rows are whole groups; nothing: as they are.
  std::optional<QuantFormat> quantize;
  MixedRecipe recipe = MixedRecipe::none; ///< Needs an affine `quantize`.
  std::vector<ModuleRule> rules;          ///< The last that matches decides.
  /// Needs an affine `quantize`. The model is loaded and run, which takes its
  /// size in memory.
  std::optional<CalibrationOptions> calibration;
  bool dequantize = false; ///< All to floats.
  /// "float32", "float16" or "bfloat16"; empty: what config.json says, else as
  /// stored. Scales of matrices that stay packed change only when it is given.
  std::string dtype;
  bool force = false; ///< Replace what is at the target.
  int n_threads = 0;  ///< 0: one per core.
  std::uint64_t max_shard_bytes = std::uint64_t{5} << 30;
};

/// Bytes of the source done and to be done; called from one thread at a time.
using ConvertProgress =
    std::function<void(std::uint64_t done, std::uint64_t total)>;

struct ConvertResult {
  std::uint64_t n_parameters = 0;
  std::uint64_t n_bytes = 0; ///< Of all tensors written.
  int n_shards = 0;
  double bits_per_weight() const {
    return n_parameters == 0 ? 0.0
                             : 8.0 * static_cast<double>(n_bytes) /
            static_cast<double>(n_parameters);
  }
};

/// Writes the checkpoint at `from` (a directory or a GGUF file) to the
/// directory `to`: tensors in safetensors files, config.json and, copied, the
/// tokenizer, chat template and generation config.
///
/// Tensors go through memory in pieces of a few MiB. The directory is written
/// under another name beside `to`, synced and renamed once, so that `to` is
/// complete or not there; what an ended process left behind is removed. Throws
/// FileError, FieldError, TensorError and InvalidArgument.
ConvertResult convert_checkpoint(
    const std::filesystem::path& from,
    const std::filesystem::path& to,
    const ConvertOptions& options = {},
    const ConvertProgress& progress = {});

/// What most matrices of a GGUF file are stored as.
enum class GgufType { f32, f16, bf16, q8_0, q4_0, q4_1 };

struct GgufOptions {
  GgufType type = GgufType::f16;
  bool force = false; ///< Replace what is at the target.
  int n_threads = 0;  ///< 0: one per core.
};

/// Writes the checkpoint at `from` to the GGUF file `to`, for llama.cpp:
/// tensors, the model's arguments, tokenizer and chat template. Vectors and
/// routers are F32; with 4 bits the embedding and the head are Q8_0; matrices
/// whose rows are not whole blocks are F16. Numbers are packed as ggml's
/// reference code packs them. As convert_checkpoint() the file appears whole or
/// not at all, and the same is thrown.
ConvertResult convert_to_gguf(
    const std::filesystem::path& from,
    const std::filesystem::path& to,
    const GgufOptions& options = {},
    const ConvertProgress& progress = {});

} // namespace qwen3_mlx
