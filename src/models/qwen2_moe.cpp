// SPDX-License-Identifier: MIT
#include "qwen3_mlx/models/qwen2_moe.h"

#include "models/registry.h"
#include "nn/decoder_impl.h"

namespace qwen3_mlx::qwen2_moe {

TransformerBlock::TransformerBlock(
    const ModelArgs& args,
    const Weights& w,
    int layer_idx)
    : SparseBlock(args, {.qkv_bias = args.qkv_bias}, w, layer_idx) {}

std::unique_ptr<ModelImpl> make_model(const ModelArgs& args, const Weights& w) {
  return std::make_unique<Model>(args, w);
}

qwen3_mlx::Model load_qwen2_moe_model(
    const std::filesystem::path& path,
    const LoadOptions& options) {
  return load_model_of_type("qwen2_moe", path, options);
}

} // namespace qwen3_mlx::qwen2_moe
