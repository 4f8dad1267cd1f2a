// SPDX-License-Identifier: MIT
#include "convert/calibration.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "convert/second_moment.h"
#include "convert/typed_decoder.h"
#include "mlx/device.h"
#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "qwen3_mlx/error.h"
#include "qwen3_mlx/tokenizer.h"

namespace qwen3_mlx {
namespace {

/// x [T, in] -> mean over T of x x^T, or its diagonal.
mx::array moment_of(const mx::array& x, MomentKind kind, ThreadPool& pool) {
  const auto wide = mx::astype(x, mx::float32);
  if (kind == MomentKind::diagonal) {
    return mx::mean(mx::square(wide), 0);
  }
  if (mx::default_device() == mx::Device::gpu) {
    const auto sum = mx::matmul(mx::transpose(wide), wide);
    return mx::divide(sum, mx::array(static_cast<float>(x.shape(0))));
  }
  auto rows = mx::contiguous(wide);
  mx::eval(rows);
  const int n_columns = x.shape(1);
  const auto moment = second_moment(
      {rows.data<float>(), rows.size()},
      static_cast<std::size_t>(n_columns),
      pool);
  return mx::array(moment.begin(), {n_columns, n_columns}, mx::float32);
}

std::vector<std::uint32_t> tokens_of(
    const std::filesystem::path& path,
    const CalibrationOptions& options,
    int vocab_size) {
  const auto text = options.text.empty() ? built_in_calibration_text()
                                         : std::string_view(options.text);
  auto ids = load_tokenizer(path).encode(text, /* add_special_tokens */ true);
  const auto length = static_cast<std::size_t>(options.sequence_length);
  if (ids.size() < length) {
    throw InvalidArgument(
        "the calibration text has " + std::to_string(ids.size()) +
        " tokens, expected at least " + std::to_string(length));
  }
  const auto most = static_cast<std::size_t>(options.max_tokens);
  const auto count = std::max(length, std::min(ids.size(), most));
  ids.resize(count / length * length);
  for (const auto id : ids) {
    if (std::cmp_greater_equal(id, vocab_size)) {
      throw InvalidArgument(
          "the calibration text has the token " + std::to_string(id) +
          ", and the model knows " + std::to_string(vocab_size));
    }
  }
  return ids;
}

LoadOptions load_options() {
  LoadOptions options;
  options.exact = true;
  options.dtype = mx::float32;
  return options;
}

const Mlp* dense_mlp(const DenseBlock& block) {
  return &block.mlp;
}

const Mlp* dense_mlp(const SparseBlock& block) {
  return block.mlp ? &*block.mlp : nullptr;
}

const SparseMoeBlock* sparse_mlp(const DenseBlock&) {
  return nullptr;
}

const SparseMoeBlock* sparse_mlp(const SparseBlock& block) {
  return block.sparse_mlp ? &*block.sparse_mlp : nullptr;
}

} // namespace

CalibrationRun::CalibrationRun(
    const std::filesystem::path& path,
    const CalibrationOptions& options)
    : model_(load_model(path, load_options())), tokens_(mx::zeros({0})),
      length_(options.sequence_length), hidden_(mx::zeros({0})) {
  const auto ids = tokens_of(path, options, model_.args().vocab_size);
  n_sequences_ = static_cast<int>(ids.size()) / length_;
  tokens_ = mx::array(ids.begin(), {static_cast<int>(ids.size())}, mx::uint32);
  rewind();
}

int CalibrationRun::n_layers() const {
  return model_.args().num_hidden_layers;
}

void CalibrationRun::rewind() {
  layer_idx_ = 0;
  cache_ = model_.make_cache();
  hidden_ = with_decoder(model_, [&](const auto& model) {
    return model.model.embed_tokens(tokens_);
  });
  mx::eval(hidden_);
}

template <class Block>
InputMoments
CalibrationRun::run_layer(const std::vector<Block>& layers, MomentKind kind) {
  const auto& layer = layers[static_cast<std::size_t>(layer_idx_)];
  const auto prefix = "model.layers." + std::to_string(layer_idx_) + ".";
  const std::vector<Segment> segments{
      {.cache = cache_, .length = length_, .batch = n_sequences_}};
  const LayerStep step{segments, layer_idx_};
  InputMoments moments;
  const auto add = [&](std::initializer_list<const char*> modules,
                       const mx::array& x) {
    const auto moment = moment_of(x, kind, pool_);
    for (const auto* module : modules) {
      moments.insert_or_assign(prefix + module, moment);
    }
  };
  const auto& attention = layer.self_attn;
  add({"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"},
      layer.input_layernorm(hidden_));
  const auto heads = attention.heads(hidden_, layer.input_layernorm, step);
  add({"self_attn.o_proj"}, heads);
  const auto between = attention.o_proj.add_to(hidden_, heads);
  const auto normed = layer.post_attention_layernorm(between);
  if (const auto* mlp = dense_mlp(layer)) {
    add({"mlp.gate_proj", "mlp.up_proj"}, normed);
    const auto gated = mlp->gate_up_proj.swiglu(normed);
    add({"mlp.down_proj"}, gated);
    hidden_ = mlp->down_proj.add_to(between, gated);
  } else if (const auto* sparse = sparse_mlp(layer)) {
    // Of all tokens, whichever experts they go to.
    add({"mlp.switch_mlp.gate_proj",
         "mlp.switch_mlp.up_proj",
         "mlp.shared_expert.gate_proj",
         "mlp.shared_expert.up_proj"},
        normed);
    hidden_ = (*sparse)(between, layer.post_attention_layernorm);
  }
  ++layer_idx_;
  std::vector<mx::array> all{hidden_};
  for (const auto& [module, moment] : moments) {
    all.push_back(moment);
  }
  mx::eval(all);
  return moments;
}

InputMoments CalibrationRun::next_layer(MomentKind kind) {
  InputMoments moments;
  with_decoder(model_, [&](const auto& model) {
    moments = run_layer(model.model.layers, kind);
    return 0;
  });
  return moments;
}

InputMoments CalibrationRun::head(MomentKind kind) {
  InputMoments moments;
  with_decoder(model_, [&](const auto& model) {
    const auto moment = moment_of(model.model.norm(hidden_), kind, pool_);
    mx::eval(moment);
    moments.emplace(model.lm_head ? "lm_head" : "model.embed_tokens", moment);
    return 0;
  });
  return moments;
}

} // namespace qwen3_mlx
