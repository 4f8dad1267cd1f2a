// SPDX-License-Identifier: MIT
// Rotary position embedding (arXiv 2104.09864) with the scalings of
// transformers' modeling_rope_utils.py: default, linear, dynamic NTK, YaRN
// (arXiv 2309.00071) and Llama 3.
#pragma once

#include <vector>

#include "mlx/array.h"
#include "qwen3_mlx/model_args.h"

namespace qwen3_mlx {
namespace mx = mlx::core;

/// Turns pairs (i, i + dims / 2) of each head by position * inv_freq[i].
class Rope {
 public:
  /// `max_position_embeddings` is the model's, used where the scaling does not
  /// name the length it was trained at.
  Rope(const RopeArgs& args, int head_dim, int max_position_embeddings);

  /// x [B, n_heads, L, head_dim] at positions offset, offset + 1, ...;
  /// `total_length` is the length of the sequence when the pass is done.
  mx::array operator()(const mx::array& x, int offset, int total_length) const;

  /// periods() as float32 [dims / 2]: angle = position / period.
  mx::array periods_array(int total_length) const;

  /// Queries and keys must both be multiplied by this (YaRN's temperature).
  /// It is left to the scale of the scores, which it enters squared.
  float attention_factor() const {
    return attention_factor_;
  }
  /// Wavelengths / (2 pi) of the pairs for a sequence of that length, float64.
  std::vector<double> periods(int total_length) const;

 private:
  RopeArgs args_;
  int dims_;
  int max_positions_;
  float attention_factor_ = 1.0f;
  mx::array periods_; ///< [dims / 2] float32
};

} // namespace qwen3_mlx
