// SPDX-License-Identifier: MIT
#include "qwen3_mlx/models/llama.h"

#include "models/registry.h"
#include "nn/decoder_impl.h"

namespace qwen3_mlx::llama {

TransformerBlock::TransformerBlock(
    const ModelArgs& args,
    const Weights& w,
    int layer_idx)
    : DenseBlock(
          args,
          {.qkv_bias = args.attention_bias,
           .output_bias = args.attention_bias,
           .mlp_bias = args.mlp_bias},
          w,
          layer_idx) {}

std::unique_ptr<ModelImpl> make_model(const ModelArgs& args, const Weights& w) {
  return std::make_unique<Model>(args, w);
}

qwen3_mlx::Model load_llama_model(
    const std::filesystem::path& path,
    const LoadOptions& options) {
  return load_model_of_type("llama", path, options);
}

} // namespace qwen3_mlx::llama
