// SPDX-License-Identifier: MIT
// What all architectures share: an embedding, a stack of blocks, a final norm
// and an output head.
#pragma once

#include <optional>
#include <utility>
#include <vector>

#include "mlx/array.h"
#include "qwen3_mlx/model_args.h"
#include "qwen3_mlx/nn/attention.h"
#include "qwen3_mlx/nn/mlp.h"
#include "qwen3_mlx/nn/model_impl.h"

namespace qwen3_mlx {

/// Attention and a dense feed-forward network, each with a norm before it and
/// a residual around it.
struct DenseBlock {
  DenseBlock(
      const ModelArgs& args,
      const BlockForm& form,
      const Weights& w,
      int layer_idx);

  /// x [T, hidden_size] -> the rows of step.rows, or [T, hidden_size]
  mx::array operator()(const mx::array& x, const LayerStep& step) const;

  Attention self_attn;
  Mlp mlp;
  RMSNorm input_layernorm;
  RMSNorm post_attention_layernorm;
};

/// Attention and, in the layers that ModelArgs::is_sparse() names, a
/// mixture of experts; a dense network in the others.
struct SparseBlock {
  SparseBlock(
      const ModelArgs& args,
      const BlockForm& form,
      const Weights& w,
      int layer_idx);

  mx::array operator()(const mx::array& x, const LayerStep& step) const;

  Attention self_attn;
  std::optional<SparseMoeBlock> sparse_mlp;
  std::optional<Mlp> mlp;
  RMSNorm input_layernorm;
  RMSNorm post_attention_layernorm;
};

/// Rows `rows` of x [T, n]; x itself when null.
mx::array take_rows(const mx::array& x, const std::vector<int>* rows);

/// Logits of the final hidden states x [R, hidden_size] -> [R, vocab_size].
mx::array output_logits(
    const mx::array& x,
    const RMSNorm& norm,
    const std::optional<Linear>& lm_head,
    const Embedding& embed_tokens);

/// Token embedding, blocks and final norm.
template <class Block>
struct Decoder {
  Decoder(const ModelArgs& args, const Weights& w);

  /// Hidden states [R, hidden_size] of step.logits_rows after the last block,
  /// before the norm. What comes behind the last block's caches is computed for
  /// those rows alone.
  mx::array hidden(const StepInput& step) const {
    const auto* const rows = step.logits_rows ? &*step.logits_rows : nullptr;
    auto h = embed_tokens(step.tokens);
    const int num_layers = static_cast<int>(layers.size());
    for (int idx = 0; idx < num_layers; ++idx) {
      h = layers[static_cast<std::size_t>(idx)](
          h, {step.segments, idx, idx + 1 == num_layers ? rows : nullptr});
    }
    // A block need not know of rows.
    const bool is_taken =
        rows != nullptr && h.shape(0) == static_cast<int>(rows->size());
    return is_taken ? h : take_rows(h, rows);
  }
  /// The same, normed.
  mx::array operator()(const StepInput& step) const {
    return norm(hidden(step));
  }

  Embedding embed_tokens;
  std::vector<Block> layers;
  RMSNorm norm;
};

/// Decoder and output head; without lm_head the embedding is the head.
template <class Block>
struct CausalLM final : ModelImpl {
  CausalLM(const ModelArgs& model_args, const Weights& w);

  mx::array forward(const StepInput& step) const override {
    return output_logits(
        model.hidden(step), model.norm, lm_head, model.embed_tokens);
  }

  ModelArgs args;
  Decoder<Block> model;
  std::optional<Linear> lm_head;
};

} // namespace qwen3_mlx
