// SPDX-License-Identifier: MIT
// What a checkpoint says about its model: the fields of config.json, or of a
// GGUF file's metadata, under the names of config.json.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "qwen3_mlx/config.h"
#include "qwen3_mlx/quantization.h"

namespace qwen3_mlx {

/// Ways to stretch rotary embeddings; `none` is called "default" in configs.
enum class RopeType { none, linear, dynamic, yarn, llama3 };

/// Rotary position embeddings, from "rope_parameters" or from "rope_theta" and
/// "rope_scaling". Fields that the type does not use keep their defaults.
struct RopeArgs {
  RopeType type = RopeType::none;
  float theta = 10000.0f;
  float factor = 1.0f; ///< For yarn without one: the ratio of the contexts.
  /// Nothing: the model's max_position_embeddings.
  std::optional<int> original_max_position_embeddings;
  float beta_fast = 32.0f;               ///< yarn
  float beta_slow = 1.0f;                ///< yarn
  std::optional<float> attention_factor; ///< yarn
  std::optional<float> mscale;           ///< yarn; 0 counts as absent
  std::optional<float> mscale_all_dim;   ///< yarn; 0 counts as absent
  bool truncate = true;                  ///< yarn
  float low_freq_factor = 1.0f;          ///< llama3
  float high_freq_factor = 4.0f;         ///< llama3
};

/// A model's arguments. All sizes are checked: positive, and such that heads
/// divide as attention needs it.
struct ModelArgs {
  std::string model_type;
  int hidden_size = 0;
  int num_hidden_layers = 0;
  int intermediate_size = 0;
  int num_attention_heads = 0;
  int num_key_value_heads = 0;
  int head_dim = 0;
  int vocab_size = 0;
  int max_position_embeddings = 0;
  float rms_norm_eps = 1e-6f;
  float rope_theta = 10000.0f; ///< The same as rope_scaling.theta.
  RopeArgs rope_scaling;
  bool tie_word_embeddings = false;
  /// llama, qwen3, qwen3_moe: of q, k, v and o. False where absent.
  bool attention_bias = false;
  /// qwen2_moe: of q, k and v. True where absent; qwen2 always has them.
  bool qkv_bias = true;
  bool mlp_bias = false; ///< llama

  int num_experts = 0; ///< 0: no layer is sparse.
  int num_experts_per_tok = 0;
  int moe_intermediate_size = 0;
  int shared_expert_intermediate_size = 0; ///< 0: no shared expert.
  int decoder_sparse_step = 1;
  std::vector<int> mlp_only_layers;
  bool norm_topk_prob = false;

  /// Tokens a sliding layer sees, its own among them; nothing: none slides.
  std::optional<int> sliding_window;
  /// By layer, after transformers' rule for the model type; empty: none.
  std::vector<bool> sliding_layers;

  std::vector<std::uint32_t> eos_token_ids;
  std::optional<std::uint32_t> bos_token_id;
  /// "torch_dtype" or "dtype": "bfloat16", "float16", "float32".
  std::optional<std::string> dtype;
  std::optional<QuantizationConfig> quantization;

  /// The whole file, for keys that only one architecture reads. Of a GGUF file:
  /// its metadata under the names of config.json.
  Config config;

  /// The layer's window, or nothing where it sees the whole sequence.
  std::optional<int> sliding_window_of(int layer_idx) const;
  bool is_sliding(int layer_idx) const {
    return sliding_window_of(layer_idx).has_value();
  }
  /// Whether the layer is a mixture of experts.
  bool is_sparse(int layer_idx) const;
};

/// Reads `<path>/config.json`, or the metadata when `path` is a GGUF file.
/// Any "model_type" is read; models know which they can run. Throws FileError
/// and FieldError.
ModelArgs get_model_args(const std::filesystem::path& path);

/// From a parsed config.json.
ModelArgs parse_model_args(const Config& config);

} // namespace qwen3_mlx
