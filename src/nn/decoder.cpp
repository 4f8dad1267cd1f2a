// SPDX-License-Identifier: MIT
#include "qwen3_mlx/nn/decoder.h"

#include <algorithm>

#include "kernels/ops.h"
#include "mlx/ops.h"
#include "weights/weights.h"

namespace qwen3_mlx {

namespace {

// The rows of step.rows behind attention and its residual. Keys and values are
// needed of all rows, whatever follows of some.
mx::array attend_rows(
    const Attention& attention,
    const mx::array& x,
    const RMSNorm& norm,
    const LayerStep& step) {
  const auto heads = attention.heads(x, norm, step);
  return attention.o_proj.add_to(
      take_rows(x, step.rows), take_rows(heads, step.rows));
}

} // namespace

DenseBlock::DenseBlock(
    const ModelArgs& args,
    const BlockForm& form,
    const Weights& w,
    int layer_idx)
    : self_attn(args, form, w.sub("self_attn"), layer_idx),
      mlp(w.sub("mlp"),
          args.hidden_size,
          args.intermediate_size,
          form.mlp_bias),
      input_layernorm(
          w.sub("input_layernorm"),
          args.hidden_size,
          args.rms_norm_eps),
      post_attention_layernorm(
          w.sub("post_attention_layernorm"),
          args.hidden_size,
          args.rms_norm_eps) {}

mx::array
DenseBlock::operator()(const mx::array& x, const LayerStep& step) const {
  const auto h = attend_rows(self_attn, x, input_layernorm, step);
  return mlp(h, post_attention_layernorm);
}

SparseBlock::SparseBlock(
    const ModelArgs& args,
    const BlockForm& form,
    const Weights& w,
    int layer_idx)
    : self_attn(args, form, w.sub("self_attn"), layer_idx),
      input_layernorm(
          w.sub("input_layernorm"),
          args.hidden_size,
          args.rms_norm_eps),
      post_attention_layernorm(
          w.sub("post_attention_layernorm"),
          args.hidden_size,
          args.rms_norm_eps) {
  if (args.is_sparse(layer_idx)) {
    sparse_mlp.emplace(args, w.sub("mlp"));
  } else {
    mlp.emplace(w.sub("mlp"), args.hidden_size, args.intermediate_size);
  }
}

mx::array
SparseBlock::operator()(const mx::array& x, const LayerStep& step) const {
  const auto h = attend_rows(self_attn, x, input_layernorm, step);
  return sparse_mlp ? (*sparse_mlp)(h, post_attention_layernorm)
                    : (*mlp)(h, post_attention_layernorm);
}

mx::array take_rows(const mx::array& x, const std::vector<int>* rows) {
  if (rows == nullptr) {
    return x;
  }
  const auto is_own = [&](const int& row) {
    return row == &row - rows->data();
  };
  if (static_cast<int>(rows->size()) == x.shape(0) &&
      std::ranges::all_of(*rows, is_own)) {
    return x;
  }
  if (rows->size() == 1) {
    const int row = rows->front();
    return mx::slice(x, {row, 0}, {row + 1, x.shape(1)});
  }
  const auto n_rows = static_cast<int>(rows->size());
  return mx::take(x, mx::array(rows->begin(), {n_rows}, mx::int32), 0);
}

mx::array output_logits(
    const mx::array& x,
    const RMSNorm& norm,
    const std::optional<Linear>& lm_head,
    const Embedding& embed_tokens) {
  if (x.shape(0) == 0) { // a chunk of a prompt, of which nothing is asked
    return mx::zeros({0, embed_tokens.matrix().out_dim()}, mx::float32);
  }
  if (lm_head) {
    return (*lm_head)(x, norm);
  }
  return ops::norm_linear(x, {norm.weight, norm.eps}, embed_tokens.matrix());
}

} // namespace qwen3_mlx
