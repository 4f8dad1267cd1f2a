// SPDX-License-Identifier: MIT
// Llama and models of its shape (model_type "llama", arXiv 2407.21783), among
// them SmolLM2, the default model.
#pragma once

#include <filesystem>

#include "qwen3_mlx/model.h"
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

/// load_model() of a checkpoint whose model_type must be "llama"; throws
/// FieldError for another one. `as<llama::Model>()` gives the typed model.
qwen3_mlx::Model load_llama_model(
    const std::filesystem::path& path,
    const LoadOptions& options = {});

} // namespace qwen3_mlx::llama
