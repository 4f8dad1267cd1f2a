// SPDX-License-Identifier: MIT
// Qwen1.5-MoE and Qwen2-MoE (model_type "qwen2_moe"): Qwen2 attention, and a
// mixture of experts with one more that every token passes.
#pragma once

#include <filesystem>

#include "qwen3_mlx/model.h"
#include "qwen3_mlx/nn/decoder.h"

namespace qwen3_mlx::qwen2_moe {

using qwen3_mlx::Attention;
using qwen3_mlx::Mlp;

/// One decoder layer.
struct TransformerBlock : SparseBlock {
  TransformerBlock(const ModelArgs& args, const Weights& w, int layer_idx);
};

using Qwen2MoeModel = Decoder<TransformerBlock>;
using Model = CausalLM<TransformerBlock>;

/// load_model() of a checkpoint whose model_type must be "qwen2_moe"; throws
/// FieldError for another one. `as<qwen2_moe::Model>()` gives the typed model.
qwen3_mlx::Model load_qwen2_moe_model(
    const std::filesystem::path& path,
    const LoadOptions& options = {});

} // namespace qwen3_mlx::qwen2_moe
