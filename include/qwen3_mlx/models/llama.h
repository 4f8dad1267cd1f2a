// SPDX-License-Identifier: MIT
// Llama and models of its shape (model_type "llama", arXiv 2407.21783), among
// them SmolLM2, the default model.
#pragma once

#include "qwen3_mlx/nn/decoder.h"

namespace qwen3_mlx::llama {

using qwen3_mlx::Attention;
using qwen3_mlx::Mlp;

/// One decoder layer.
struct TransformerBlock : DenseBlock {
  TransformerBlock(const ModelArgs& args, const Weights& w, int layer_idx);
};

using LlamaModel = Decoder<TransformerBlock>;
using Model = CausalLM<TransformerBlock>;

} // namespace qwen3_mlx::llama
