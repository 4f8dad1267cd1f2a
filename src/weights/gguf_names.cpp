// SPDX-License-Identifier: MIT
#include "weights/gguf_names.h"

#include <array>
#include <string_view>

#include "qwen3_mlx/error.h"

namespace qwen3_mlx {
namespace {

struct NameRow {
  std::string_view gguf;
  std::string_view canonical;
};

constexpr std::array global_rows = std::to_array<NameRow>({
    {"token_embd", "model.embed_tokens"},
    {"output_norm", "model.norm"},
    {"output", "lm_head"},
});

// Below "blk.<i>." and "model.layers.<i>.".
constexpr std::array layer_rows = std::to_array<NameRow>({
    {"attn_norm", "input_layernorm"},
    {"ffn_norm", "post_attention_layernorm"},
    {"attn_q", "self_attn.q_proj"},
    {"attn_k", "self_attn.k_proj"},
    {"attn_v", "self_attn.v_proj"},
    {"attn_output", "self_attn.o_proj"},
    {"attn_q_norm", "self_attn.q_norm"},
    {"attn_k_norm", "self_attn.k_norm"},
    {"ffn_gate", "mlp.gate_proj"},
    {"ffn_up", "mlp.up_proj"},
    {"ffn_down", "mlp.down_proj"},
    {"ffn_gate_inp", "mlp.gate"},
    {"ffn_gate_exps", "mlp.switch_mlp.gate_proj"},
    {"ffn_up_exps", "mlp.switch_mlp.up_proj"},
    {"ffn_down_exps", "mlp.switch_mlp.down_proj"},
    {"ffn_gate_inp_shexp", "mlp.shared_expert_gate"},
    {"ffn_gate_shexp", "mlp.shared_expert.gate_proj"},
    {"ffn_up_shexp", "mlp.shared_expert.up_proj"},
    {"ffn_down_shexp", "mlp.shared_expert.down_proj"},
});

template <std::size_t n>
std::string_view
look_up(const std::array<NameRow, n>& rows, std::string_view name) {
  for (const auto& row : rows) {
    if (row.gguf == name) {
      return row.canonical;
    }
  }
  return {};
}

std::int64_t head_count(const GgufFile& file, const std::string& key) {
  const auto count = file.get_int(key);
  if (!count || *count < 1) {
    throw FieldError(file.path(), key, "expected a positive integer");
  }
  return *count;
}

} // namespace

GgufNames::GgufNames(const GgufFile& file)
    : file_(file),
      is_llama_(file.get_string("general.architecture") == "llama") {
  if (is_llama_) {
    n_heads_ = head_count(file, "llama.attention.head_count");
    n_kv_heads_ = file.has("llama.attention.head_count_kv")
        ? head_count(file, "llama.attention.head_count_kv")
        : n_heads_;
  }
}

std::string GgufNames::canonical(const std::string& name) const {
  const auto dot = name.rfind('.');
  if (dot == std::string::npos) {
    return name;
  }
  const auto module = std::string_view(name).substr(0, dot);
  const auto leaf = name.substr(dot); // ".weight" or ".bias"
  if (const auto found = look_up(global_rows, module); !found.empty()) {
    return std::string(found) + leaf;
  }
  constexpr std::string_view block = "blk.";
  const auto layer_end = module.find('.', block.size());
  if (!module.starts_with(block) || layer_end == std::string_view::npos) {
    return name;
  }
  const auto found = look_up(layer_rows, module.substr(layer_end + 1));
  if (found.empty()) {
    return name;
  }
  const auto layer = module.substr(block.size(), layer_end - block.size());
  return "model.layers." + std::string(layer) + "." + std::string(found) + leaf;
}

std::int64_t GgufNames::permuted_head_dim(const GgufTensor& tensor) const {
  const auto is = [&](std::string_view module) {
    return tensor.name.find(module) != std::string::npos;
  };
  if (!is_llama_ || !(is(".attn_q.") || is(".attn_k."))) {
    return 0;
  }
  const auto n_heads = is(".attn_q.") ? n_heads_ : n_kv_heads_;
  const auto n_rows = tensor.shape.front();
  if (n_rows % (2 * n_heads) != 0) {
    throw TensorError(
        file_.path(),
        tensor.name,
        "has " + std::to_string(n_rows) + " rows, expected a multiple of 2 * " +
            std::to_string(n_heads) + " heads");
  }
  return n_rows / n_heads;
}

std::string gguf_tensor_name(const std::string& canonical) {
  const auto dot = canonical.rfind('.');
  if (dot == std::string::npos) {
    return {};
  }
  const auto module = std::string_view(canonical).substr(0, dot);
  const auto leaf = canonical.substr(dot);
  for (const auto& row : global_rows) {
    if (row.canonical == module) {
      return std::string(row.gguf) + leaf;
    }
  }
  constexpr std::string_view layers = "model.layers.";
  const auto layer_end = module.find('.', layers.size());
  if (!module.starts_with(layers) || layer_end == std::string_view::npos) {
    return {};
  }
  const auto layer = module.substr(layers.size(), layer_end - layers.size());
  for (const auto& row : layer_rows) {
    if (row.canonical == module.substr(layer_end + 1)) {
      return "blk." + std::string(layer) + "." + std::string(row.gguf) + leaf;
    }
  }
  return {};
}

} // namespace qwen3_mlx
