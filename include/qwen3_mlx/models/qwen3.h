// SPDX-License-Identifier: MIT
// Qwen3 (model_type "qwen3", arXiv 2505.09388): grouped-query attention with
// an RMSNorm per head on queries and keys, and a SwiGLU network.
#pragma once

#include <filesystem>

#include "qwen3_mlx/model.h"
#include "qwen3_mlx/nn/decoder.h"

namespace qwen3_mlx::qwen3 {

using qwen3_mlx::Attention;
using qwen3_mlx::Mlp;

/// One decoder layer.
struct TransformerBlock : DenseBlock {
  TransformerBlock(const ModelArgs& args, const Weights& w, int layer_idx);
};

using Qwen3Model = Decoder<TransformerBlock>;
using Model = CausalLM<TransformerBlock>;

/// load_model() of a checkpoint whose model_type must be "qwen3"; throws
/// FieldError for another one. `as<qwen3::Model>()` gives the typed model.
qwen3_mlx::Model load_qwen3_model(
    const std::filesystem::path& path,
    const LoadOptions& options = {});

} // namespace qwen3_mlx::qwen3
