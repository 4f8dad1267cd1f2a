// SPDX-License-Identifier: MIT
// What lies in a checkpoint under one set of names: a directory of safetensors
// files as Hugging Face or mlx-community write them, or a GGUF file.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/file.h"
#include "formats/gguf.h"
#include "weights/row_source.h"

namespace qwen3_mlx {

/// How elements are stored in the file.
/// `ggml`: blocks that MLX has no packing for, but that have values.
/// `imported`: what another program packed; see StoredTensor::rows.
enum class StoredType {
  f32,
  f16,
  bf16,
  u32,
  u8,
  q4_0,
  q4_1,
  q8_0,
  mxfp4,
  ggml,
  imported,
  other
};

/// A tensor of the checkpoint under its canonical name.
struct StoredTensor {
  /// Consecutive bytes of one file.
  struct Piece {
    std::shared_ptr<const File> file;
    std::uint64_t offset;
    std::uint64_t n_bytes;
  };

  /// Name in the file, for messages and module paths; of the first piece where
  /// there are several.
  std::string source_name;
  StoredType type;
  std::string type_name; ///< As the file calls it, "BF16", "Q4_0".
  /// Of a GGUF's tensor that dequantize_ggml() can read.
  std::optional<GgmlType> ggml_type = std::nullopt;
  /// The values of a tensor of type `imported`; its pieces then are those of
  /// its largest part.
  std::shared_ptr<const RowSource> rows = nullptr;
  /// Outermost first, in elements (not blocks).
  std::vector<std::int64_t> shape;
  /// Equal shares of `shape` along its first dimension, in order.
  std::vector<Piece> pieces;
  /// Above 0: rows of each head lie as (pair, half) as llama.cpp stores them
  /// for interleaved rotary embeddings, and belong as (half, pair).
  std::int64_t permuted_head_dim = 0;

  const std::filesystem::path& path() const {
    return pieces.front().file->path();
  }
  std::uint64_t n_bytes() const;
};

/// An opened checkpoint: all headers are read and checked, no tensor data is.
class Checkpoint {
 public:
  /// A directory or a GGUF file. Throws FileError, FieldError, TensorError.
  static Checkpoint open(const std::filesystem::path& path);

  /// The directory or the file, for messages.
  const std::filesystem::path& path() const {
    return path_;
  }
  bool is_gguf() const {
    return is_gguf_;
  }
  /// By canonical name: Hugging Face's, with experts stacked as
  /// "<layer>.mlp.switch_mlp.{gate,up,down}_proj.weight" [E, out, in].
  const std::map<std::string, StoredTensor, std::less<>>& tensors() const {
    return tensors_;
  }
  /// nullptr when there is none.
  const StoredTensor* find(std::string_view name) const;

 private:
  std::filesystem::path path_;
  bool is_gguf_ = false;
  std::map<std::string, StoredTensor, std::less<>> tensors_;
};

/// The file that a plain name in a checkpoint's directory means. A link may
/// lead only to the directory itself or, from a snapshot of Hugging Face's
/// cache, to its blobs: a downloaded checkpoint must not make us read other
/// files. Throws FileError.
std::filesystem::path checkpoint_file(
    const std::filesystem::path& directory,
    const std::string& name);

} // namespace qwen3_mlx
