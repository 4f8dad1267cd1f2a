// SPDX-License-Identifier: MIT
#include "convert/damage_meter.h"

#include <algorithm>
#include <utility>

#include "convert/typed_decoder.h"
#include "kernels/cpu/tiles.h"
#include "mlx/ops.h"
#include "mlx/transforms.h"

namespace qwen3_mlx {
namespace {

// Several places of the text; long enough that most tokens have a context.
constexpr int most_pieces = 4;
constexpr int most_length = 64;

/// The pieces' tokens after each other, spread over all of them.
mx::array pieces_of(const mx::array& tokens, int n_pieces, int length) {
  std::vector<mx::array> pieces;
  pieces.reserve(static_cast<std::size_t>(n_pieces));
  const int spacing = tokens.shape(0) / n_pieces;
  for (int idx = 0; idx < n_pieces; ++idx) {
    pieces.push_back(
        mx::slice(tokens, {idx * spacing}, {idx * spacing + length}));
  }
  return mx::concatenate(std::move(pieces), 0);
}

/// Plain weights in the layout that `like` has.
Matrix matrix_of(mx::array weight, const Matrix& like) {
  Matrix matrix{.weight = std::move(weight), .scales = {}, .biases = {}};
  if (like.tiles == nullptr) {
    return matrix;
  }
  auto tiled = cpu::make_tiled(matrix, like.tiles->runtime);
  if (!tiled) {
    return matrix;
  }
  matrix.weight = mx::contiguous(matrix.weight);
  mx::eval(matrix.weight);
  cpu::fill_tiles(matrix, *tiled);
  return *std::move(tiled);
}

/// Puts other weights into copies of a layer's parts, which share the rest.
class Replacer {
 public:
  Replacer(std::string prefix, const DamageMeter::Weights& weights)
      : prefix_(std::move(prefix)), weights_(weights) {}

  void replace(DenseBlock& block) const {
    replace(block.self_attn);
    replace(block.mlp, "mlp.");
  }
  void replace(SparseBlock& block) const {
    replace(block.self_attn);
    if (block.mlp) {
      replace(*block.mlp, "mlp.");
    }
    if (block.sparse_mlp) {
      replace(block.sparse_mlp->switch_mlp);
      if (block.sparse_mlp->shared_expert) {
        replace(*block.sparse_mlp->shared_expert, "mlp.shared_expert.");
      }
    }
  }

 private:
  bool replace(Linear& linear, const std::string& name) const {
    auto weight = weights_(prefix_ + name);
    if (!weight) {
      return false;
    }
    linear =
        Linear(matrix_of(*std::move(weight), linear.matrix()), linear.bias());
    return true;
  }
  void replace(Attention& attention) const {
    bool changed = replace(attention.q_proj, "self_attn.q_proj");
    changed |= replace(attention.k_proj, "self_attn.k_proj");
    changed |= replace(attention.v_proj, "self_attn.v_proj");
    if (changed) {
      attention.qkv_proj =
          MergedLinear({attention.q_proj, attention.k_proj, attention.v_proj});
    }
    replace(attention.o_proj, "self_attn.o_proj");
  }
  void replace(Mlp& mlp, const std::string& name) const {
    bool changed = replace(mlp.gate_proj, name + "gate_proj");
    changed |= replace(mlp.up_proj, name + "up_proj");
    if (changed) {
      mlp.gate_up_proj = MergedLinear({mlp.gate_proj, mlp.up_proj});
    }
    replace(mlp.down_proj, name + "down_proj");
  }
  void replace(SwitchMlp& experts) const {
    auto gate = weights_(prefix_ + "mlp.switch_mlp.gate_proj");
    auto up = weights_(prefix_ + "mlp.switch_mlp.up_proj");
    if (!gate || !up) {
      return;
    }
    const auto like =
        experts.gate_up_proj ? *experts.gate_up_proj : *experts.gate_proj;
    experts.gate_proj = matrix_of(*std::move(gate), like);
    experts.up_proj = matrix_of(*std::move(up), like);
    experts.gate_up_proj.reset();
  }

  std::string prefix_;
  const DamageMeter::Weights& weights_;
};

mx::array log_softmax(const mx::array& logits) {
  const auto wide = mx::astype(logits, mx::float32);
  return mx::subtract(wide, mx::logsumexp(wide, -1, /* keepdims */ true));
}

} // namespace

DamageMeter::DamageMeter(const Model& model, const mx::array& tokens)
    : model_(model), tokens_(tokens), probs_(mx::zeros({0})),
      log_probs_(mx::zeros({0})) {
  length_ = std::min(most_length, tokens.shape(0));
  n_pieces_ = std::min(most_pieces, tokens.shape(0) / length_);
  tokens_ = pieces_of(tokens, n_pieces_, length_);
  // Every second: neighbours tell much the same.
  for (int row = 1; row < n_pieces_ * length_; row += 2) {
    rows_.push_back(row);
  }
  const Weights own = [](const std::string&) { return std::nullopt; };
  with_decoder(model_, [&](const auto& decoder) {
    auto cache = model_.make_cache();
    const std::vector<Segment> segments{
        {.cache = cache, .length = length_, .batch = n_pieces_}};
    auto hidden = decoder.model.embed_tokens(tokens_);
    hidden_.push_back(hidden);
    int layer_idx = 0;
    for (const auto& layer : decoder.model.layers) {
      hidden = layer(hidden, {segments, layer_idx++});
      mx::eval(hidden);
      hidden_.push_back(hidden);
    }
    return 0;
  });
  log_probs_ = log_softmax(
      logits(hidden_.back(), static_cast<int>(hidden_.size()) - 1, own));
  probs_ = mx::exp(log_probs_);
  mx::eval(probs_, log_probs_);
}

mx::array DamageMeter::logits(
    mx::array hidden,
    int first_layer,
    const Weights& weights) const {
  return with_decoder(model_, [&](const auto& decoder) {
    auto cache = model_.make_cache();
    const std::vector<Segment> segments{
        {.cache = cache, .length = length_, .batch = n_pieces_}};
    const auto& layers = decoder.model.layers;
    const int n_layers = static_cast<int>(layers.size());
    for (int idx = first_layer; idx < n_layers; ++idx) {
      auto layer = layers[static_cast<std::size_t>(idx)];
      Replacer("model.layers." + std::to_string(idx) + ".", weights)
          .replace(layer);
      hidden = layer(hidden, {segments, idx});
      mx::eval(hidden); // before the layer's other weights go
    }
    const auto x = decoder.model.norm(take_rows(hidden, &rows_));
    if (decoder.lm_head) {
      const auto weight = weights("lm_head");
      return weight ? Linear(
                          matrix_of(*weight, decoder.lm_head->matrix()),
                          decoder.lm_head->bias())(x)
                    : (*decoder.lm_head)(x);
    }
    const auto& table = decoder.model.embed_tokens;
    const auto weight = weights("model.embed_tokens");
    return weight ? Linear(matrix_of(*weight, table.matrix()), std::nullopt)(x)
                  : table.as_linear(x);
  });
}

double DamageMeter::damage(int first_layer, const Weights& weights) const {
  auto hidden = hidden_[static_cast<std::size_t>(first_layer)];
  if (first_layer == 0) {
    if (const auto table = weights("model.embed_tokens")) {
      hidden = mx::take(*table, tokens_, 0);
    }
  }
  const auto changed = log_softmax(logits(hidden, first_layer, weights));
  auto divergence = mx::mean(
      mx::sum(mx::multiply(probs_, mx::subtract(log_probs_, changed)), -1));
  return std::max(0.0, static_cast<double>(divergence.item<float>()));
}

} // namespace qwen3_mlx
