// SPDX-License-Identifier: MIT
// Qwen3-MoE (model_type "qwen3_moe", arXiv 2505.09388): Qwen3 attention, and a
// mixture of SwiGLU experts in the sparse layers.
#pragma once

#include <filesystem>

#include "qwen3_mlx/model.h"
#include "qwen3_mlx/nn/decoder.h"

namespace qwen3_mlx::qwen3_moe {

using qwen3_mlx::Attention;
using qwen3_mlx::Mlp;

/// One decoder layer.
struct TransformerBlock : SparseBlock {
  TransformerBlock(const ModelArgs& args, const Weights& w, int layer_idx);
};

using Qwen3MoeModel = Decoder<TransformerBlock>;
using Model = CausalLM<TransformerBlock>;

/// load_model() of a checkpoint whose model_type must be "qwen3_moe"; throws
/// FieldError for another one. `as<qwen3_moe::Model>()` gives the typed model.
qwen3_mlx::Model load_qwen3_moe_model(
    const std::filesystem::path& path,
    const LoadOptions& options = {});

} // namespace qwen3_mlx::qwen3_moe
