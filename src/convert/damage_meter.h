// SPDX-License-Identifier: MIT
// What other numbers in some matrices do to what a model says.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "mlx/array.h"
#include "qwen3_mlx/model.h"

namespace qwen3_mlx {

/// Runs a model on a few pieces of text, from the first matrix that changed.
class DamageMeter {
 public:
  /// The weights [..., out, in] in float32 that a module has instead of its
  /// own; nothing: its own. The stacks of experts "switch_mlp.gate_proj" and
  /// "switch_mlp.up_proj" are given together or not at all.
  using Weights =
      std::function<std::optional<mx::array>(const std::string& module)>;

  /// `tokens` [T] uint32. A few short pieces of them are read.
  DamageMeter(const Model& model, const mx::array& tokens);

  /// The mean Kullback-Leibler divergence, in nats a token, of what the model
  /// predicts with `weights` from what it predicts with its own. Layers before
  /// `first_layer` are unchanged; their count stands for the head. A tied table
  /// of embeddings that changes needs a `first_layer` of 0.
  double damage(int first_layer, const Weights& weights) const;

 private:
  mx::array
  logits(mx::array hidden, int first_layer, const Weights& weights) const;

  Model model_;
  mx::array tokens_; ///< [pieces * length]
  int n_pieces_ = 0;
  int length_ = 0;
  std::vector<int> rows_;         ///< Of tokens_: whose predictions count.
  std::vector<mx::array> hidden_; ///< [tokens, hidden_size] before each layer,
                                  ///< and behind the last.
  mx::array probs_;               ///< [rows, vocab_size] of the model's own.
  mx::array log_probs_;           ///< Their logarithms.
};

} // namespace qwen3_mlx
