// SPDX-License-Identifier: MIT
#include "convert/gguf_metadata.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "qwen3_mlx/error.h"

namespace qwen3_mlx {
namespace {

/// "<architecture>.<name>" of one architecture.
class Keys {
 public:
  Keys(std::string architecture, GgufMetadata& metadata)
      : prefix_(std::move(architecture) + "."), metadata_(metadata) {}

  void add_uint(std::string_view name, int value) {
    metadata_.add_uint(key(name), static_cast<std::uint64_t>(value));
  }
  void add_float(std::string_view name, double value) {
    metadata_.add_float(key(name), value);
  }
  void add_string(std::string_view name, std::string_view value) {
    metadata_.add_string(key(name), value);
  }
  void add_bool(std::string_view name, bool value) {
    metadata_.add_bool(key(name), value);
  }

 private:
  std::string key(std::string_view name) const {
    return prefix_ + std::string(name);
  }

  std::string prefix_;
  GgufMetadata& metadata_;
};

void add_rope(const ModelArgs& args, Keys& keys) {
  const auto& rope = args.rope_scaling;
  keys.add_float("rope.freq_base", rope.theta);
  switch (rope.type) {
  case RopeType::none:
  case RopeType::llama3: // a tensor says it
    return;
  case RopeType::dynamic:
    args.config.fail("rope_scaling.type", "GGUF files have no dynamic scaling");
  case RopeType::linear:
    keys.add_string("rope.scaling.type", "linear");
    keys.add_float("rope.scaling.factor", rope.factor);
    return;
  case RopeType::yarn:
    break;
  }
  if (rope.mscale.value_or(0) != 0 || rope.mscale_all_dim.value_or(0) != 0 ||
      !rope.truncate) {
    args.config.fail(
        "rope_scaling",
        "GGUF files have no keys for mscale, mscale_all_dim and truncate of "
        "YaRN");
  }
  keys.add_string("rope.scaling.type", "yarn");
  keys.add_float("rope.scaling.factor", rope.factor);
  keys.add_uint(
      "rope.scaling.original_context_length",
      rope.original_max_position_embeddings.value_or(
          args.max_position_embeddings));
  keys.add_float("rope.scaling.yarn_beta_fast", rope.beta_fast);
  keys.add_float("rope.scaling.yarn_beta_slow", rope.beta_slow);
  if (rope.attention_factor) {
    // llama.cpp multiplies it with YaRN's own temperature.
    keys.add_float(
        "rope.scaling.attn_factor",
        *rope.attention_factor / (1.0 + 0.1 * std::log(rope.factor)));
  }
}

void add_experts(const ModelArgs& args, Keys& keys) {
  if (args.num_experts == 0) {
    return;
  }
  for (int layer = 0; layer < args.num_hidden_layers; ++layer) {
    if (!args.is_sparse(layer)) {
      args.config.fail(
          "mlp_only_layers",
          "llama.cpp has experts in every layer or in none; layer " +
              std::to_string(layer) + " has none");
    }
  }
  keys.add_uint("expert_count", args.num_experts);
  keys.add_uint("expert_used_count", args.num_experts_per_tok);
  keys.add_uint("expert_feed_forward_length", args.moe_intermediate_size);
  if (args.model_type == "qwen2_moe") {
    keys.add_uint(
        "expert_shared_feed_forward_length",
        args.shared_expert_intermediate_size);
  }
  // The architectures have one rule each, which files cannot change.
  if (args.norm_topk_prob != (args.model_type == "qwen3_moe")) {
    args.config.fail(
        "norm_topk_prob",
        "llama.cpp has it true for qwen3_moe and false for qwen2_moe");
  }
}

} // namespace

std::string gguf_architecture(const ModelArgs& args) {
  const auto& type = args.model_type;
  if (args.sliding_window) {
    for (int layer = 0; layer < args.num_hidden_layers; ++layer) {
      if (args.is_sliding(layer)) {
        args.config.fail(
            "sliding_window", "llama.cpp has no sliding windows for " + type);
      }
    }
  }
  if (type == "llama" || type == "qwen2" || type == "qwen3") {
    if (args.attention_bias && type == "qwen3") {
      args.config.fail(
          "attention_bias", "llama.cpp has no biases in attention of qwen3");
    }
    return type;
  }
  if (type == "qwen3_moe" && !args.attention_bias) {
    return "qwen3moe";
  }
  if (type == "qwen2_moe" && args.qkv_bias) {
    return "qwen2moe";
  }
  args.config.fail(
      "model_type",
      "expected llama, qwen2, qwen3, qwen2_moe or qwen3_moe with the biases "
      "that llama.cpp knows; found \"" +
          type + "\"");
}

void add_model_metadata(
    const ModelArgs& args,
    const std::string& name,
    std::uint32_t file_type,
    GgufMetadata& metadata) {
  constexpr std::uint64_t quantization_version = 2;
  const auto architecture = gguf_architecture(args);
  metadata.add_string("general.architecture", architecture);
  metadata.add_string("general.type", "model");
  metadata.add_string("general.name", name);
  metadata.add_uint("general.file_type", file_type);
  metadata.add_uint("general.quantization_version", quantization_version);

  Keys keys(architecture, metadata);
  keys.add_uint("block_count", args.num_hidden_layers);
  keys.add_uint("context_length", args.max_position_embeddings);
  keys.add_uint("embedding_length", args.hidden_size);
  keys.add_uint("feed_forward_length", args.intermediate_size);
  keys.add_uint("attention.head_count", args.num_attention_heads);
  keys.add_uint("attention.head_count_kv", args.num_key_value_heads);
  keys.add_uint("attention.key_length", args.head_dim);
  keys.add_uint("attention.value_length", args.head_dim);
  keys.add_float("attention.layer_norm_rms_epsilon", args.rms_norm_eps);
  keys.add_uint("rope.dimension_count", args.head_dim);
  keys.add_uint("vocab_size", args.vocab_size);
  add_rope(args, keys);
  add_experts(args, keys);
}

std::vector<float> rope_factors(const ModelArgs& args) {
  const auto& rope = args.rope_scaling;
  std::vector<float> factors;
  if (rope.type != RopeType::llama3) {
    return factors;
  }
  const double length = rope.original_max_position_embeddings.value_or(
      args.max_position_embeddings);
  const int n_pairs = args.head_dim / 2;
  for (int pair = 0; pair < n_pairs; ++pair) {
    const double wavelength = 2.0 * std::numbers::pi *
        std::pow(double{rope.theta}, static_cast<double>(pair) / n_pairs);
    const double keep = std::clamp(
        (length / wavelength - rope.low_freq_factor) /
            (rope.high_freq_factor - rope.low_freq_factor),
        0.0,
        1.0);
    factors.push_back(
        static_cast<float>(1.0 / ((1.0 - keep) / rope.factor + keep)));
  }
  return factors;
}

} // namespace qwen3_mlx
