// SPDX-License-Identifier: MIT
// An architecture that exists only here, as docs/adding-a-model.md says one is
// added: this file, and a row in the registry. Attention and feed-forward
// network read the same norm, side by side, as in GPT-J.
#include "mlx/ops.h"
#include "models/registry.h"
#include "nn/decoder_impl.h"

namespace qwen3_mlx::parallel {
namespace {

struct TransformerBlock {
  TransformerBlock(const ModelArgs& args, const Weights& w, int layer_idx)
      : self_attn(args, {}, w.sub("self_attn"), layer_idx),
        mlp(w.sub("mlp"), args.hidden_size, args.intermediate_size),
        input_layernorm(
            w.sub("input_layernorm"),
            args.hidden_size,
            args.rms_norm_eps) {}

  mx::array operator()(const mx::array& x, const LayerStep& step) const {
    return mx::add(
        self_attn(x, input_layernorm, step), mlp.forward(x, input_layernorm));
  }

  Attention self_attn;
  Mlp mlp;
  RMSNorm input_layernorm;
};

} // namespace

std::unique_ptr<ModelImpl> make_model(const ModelArgs& args, const Weights& w) {
  return std::make_unique<CausalLM<TransformerBlock>>(args, w);
}

} // namespace qwen3_mlx::parallel
