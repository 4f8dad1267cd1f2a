// SPDX-License-Identifier: MIT
// Construction of Decoder and CausalLM, for the model files that instantiate
// them.
#pragma once

#include "qwen3_mlx/nn/decoder.h"
#include "weights/weights.h"

namespace qwen3_mlx {

template <class Block>
Decoder<Block>::Decoder(const ModelArgs& args, const Weights& w)
    : embed_tokens(w.sub("embed_tokens"), args.vocab_size, args.hidden_size),
      norm(w.sub("norm"), args.hidden_size, args.rms_norm_eps) {
  layers.reserve(static_cast<std::size_t>(args.num_hidden_layers));
  for (int idx = 0; idx < args.num_hidden_layers; ++idx) {
    layers.emplace_back(args, w.sub("layers", idx), idx);
  }
}

template <class Block>
CausalLM<Block>::CausalLM(const ModelArgs& model_args, const Weights& w)
    : args(model_args), model(model_args, w.sub("model")) {
  if (!args.tie_word_embeddings) {
    lm_head.emplace(w.sub("lm_head"), args.hidden_size, args.vocab_size);
  }
}

} // namespace qwen3_mlx
