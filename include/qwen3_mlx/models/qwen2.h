// SPDX-License-Identifier: MIT
// Qwen2 and Qwen2.5 (model_type "qwen2", arXiv 2407.10671): grouped-query
// attention with biases on queries, keys and values, and a SwiGLU network.
#pragma once

#include <filesystem>

#include "qwen3_mlx/model.h"
#include "qwen3_mlx/nn/decoder.h"

namespace qwen3_mlx::qwen2 {

using qwen3_mlx::Attention;
using qwen3_mlx::Mlp;

/// One decoder layer.
struct TransformerBlock : DenseBlock {
  TransformerBlock(const ModelArgs& args, const Weights& w, int layer_idx);
};

using Qwen2Model = Decoder<TransformerBlock>;
using Model = CausalLM<TransformerBlock>;

/// load_model() of a checkpoint whose model_type must be "qwen2"; throws
/// FieldError for another one. `as<qwen2::Model>()` gives the typed model.
qwen3_mlx::Model load_qwen2_model(
    const std::filesystem::path& path,
    const LoadOptions& options = {});

} // namespace qwen3_mlx::qwen2
