// SPDX-License-Identifier: MIT
// What the matrices of a model are multiplied with, seen on a text.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "base/thread_pool.h"
#include "mlx/array.h"
#include "qwen3_mlx/convert.h"
#include "qwen3_mlx/model.h"

namespace qwen3_mlx {

/// Means of x x^T, [in, in] float32, by module path: of all inputs x that the
/// calibration text gives that matrix. Modules with the same input share it.
using InputMoments = std::map<std::string, mx::array>;

enum class MomentKind {
  whole,    ///< [in, in]
  diagonal, ///< [in]: the means of x^2 alone, which take far less time.
};

/// A model that reads the calibration text layer by layer, unquantized.
class CalibrationRun {
 public:
  /// Loads the model at `path`. Throws InvalidArgument for a text shorter than
  /// one sequence, and what load_model() and load_tokenizer() throw.
  CalibrationRun(
      const std::filesystem::path& path,
      const CalibrationOptions& options);

  int n_layers() const;
  /// Back to before the first layer.
  void rewind();
  /// Of the next layer's matrices.
  InputMoments next_layer(MomentKind kind = MomentKind::whole);
  /// Of the output head, after the last layer. A tied embedding is the head.
  InputMoments head(MomentKind kind = MomentKind::whole);

  const Model& model() const {
    return model_;
  }
  /// [T] uint32: all that is read.
  const mx::array& tokens() const {
    return tokens_;
  }

 private:
  template <class Block>
  InputMoments run_layer(const std::vector<Block>& layers, MomentKind kind);

  Model model_;
  ThreadPool pool_;
  mx::array tokens_; ///< [sequences * length]
  int n_sequences_ = 0;
  int length_;
  int layer_idx_ = 0;
  mx::array hidden_; ///< [tokens, hidden_size] before layer layer_idx_.
  std::vector<KVCache> cache_;
};

/// A text of this project's own: prose, dialogue, source code, mathematics,
/// lists and several languages.
std::string_view built_in_calibration_text();

} // namespace qwen3_mlx
