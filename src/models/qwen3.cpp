// SPDX-License-Identifier: MIT
#include "qwen3_mlx/models/qwen3.h"

#include "models/registry.h"
#include "nn/decoder_impl.h"

namespace qwen3_mlx::qwen3 {

TransformerBlock::TransformerBlock(
    const ModelArgs& args,
    const Weights& w,
    int layer_idx)
    : DenseBlock(
          args,
          {.qkv_bias = args.attention_bias,
           .output_bias = args.attention_bias,
           .qk_norm = true},
          w,
          layer_idx) {}

std::unique_ptr<ModelImpl> make_model(const ModelArgs& args, const Weights& w) {
  return std::make_unique<Model>(args, w);
}

qwen3_mlx::Model load_qwen3_model(
    const std::filesystem::path& path,
    const LoadOptions& options) {
  return load_model_of_type("qwen3", path, options);
}

} // namespace qwen3_mlx::qwen3
