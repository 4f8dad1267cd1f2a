// SPDX-License-Identifier: MIT
#include "qwen3_mlx/model_args.h"

#include <algorithm>
#include <array>
#include <limits>
#include <string_view>

#include "formats/gguf.h"
#include "qwen3_mlx/error.h"
#include "weights/gguf_config.h"

namespace qwen3_mlx {
namespace {

constexpr std::int64_t int_max = std::numeric_limits<int>::max();
// Sizes far above any model, low enough that products of two fit 64 bits.
constexpr std::int64_t max_size = std::int64_t{1} << 28;
constexpr std::int64_t max_layers = 100'000;

int get_size(const Config& config, std::string_view key) {
  return static_cast<int>(config.get_int(key, 1, max_size));
}

int get_size_or(const Config& config, std::string_view key, int fallback) {
  return static_cast<int>(config.get_int_or(key, fallback, 1, max_size));
}

float get_positive(
    const Config& config,
    std::string_view key,
    double fallback) {
  const double value = config.get_float_or(key, fallback);
  if (!(value > 0) || value > std::numeric_limits<float>::max()) {
    config.fail(
        key, "expected a number above 0, found " + std::to_string(value));
  }
  return static_cast<float>(value);
}

std::optional<float> get_optional(const Config& config, std::string_view key) {
  return config.has(key)
      ? std::optional(static_cast<float>(config.get_float(key)))
      : std::nullopt;
}

struct RopeRow {
  std::string_view name;
  RopeType type;
};

constexpr std::array rope_rows = std::to_array<RopeRow>({
    {"default", RopeType::none},
    {"linear", RopeType::linear},
    {"dynamic", RopeType::dynamic},
    {"yarn", RopeType::yarn},
    {"llama3", RopeType::llama3},
});

RopeType parse_rope_type(const Config& scaling) {
  // "type" is the older spelling.
  const std::string_view key = scaling.has("rope_type") ? "rope_type" : "type";
  const auto name = scaling.get_string_or(key, "default");
  std::string known;
  for (const auto& row : rope_rows) {
    if (row.name == name) {
      return row.type;
    }
    known += (known.empty() ? "" : ", ") + std::string(row.name);
  }
  scaling.fail(key, "expected one of " + known + "; found \"" + name + "\"");
}

/// 0 counts as absent, as in transformers ("x or default").
float or_default(const Config& config, std::string_view key, float fallback) {
  const auto value = get_optional(config, key);
  return value && *value != 0.0f ? *value : fallback;
}

void parse_scaling(
    RopeArgs& rope,
    const Config& scaling,
    int max_position_embeddings) {
  rope.type = parse_rope_type(scaling);
  if (scaling.has("rope_theta")) {
    rope.theta = get_positive(scaling, "rope_theta", rope.theta);
  }
  if (scaling.get_float_or("partial_rotary_factor", 1.0) != 1.0) {
    scaling.fail("partial_rotary_factor", "only 1.0 is supported");
  }
  if (rope.type == RopeType::none) {
    return;
  }
  // transformers stretches "dynamic" from max_position_embeddings always.
  if (scaling.has("original_max_position_embeddings") &&
      rope.type != RopeType::dynamic) {
    rope.original_max_position_embeddings =
        get_size(scaling, "original_max_position_embeddings");
  }
  const bool has_factor = scaling.has("factor");
  if (!has_factor && rope.type != RopeType::yarn) {
    scaling.fail("factor", "is missing, expected a number");
  }
  const double ratio = static_cast<double>(max_position_embeddings) /
      rope.original_max_position_embeddings.value_or(max_position_embeddings);
  rope.factor = get_positive(scaling, "factor", ratio);
  rope.beta_fast = or_default(scaling, "beta_fast", rope.beta_fast);
  rope.beta_slow = or_default(scaling, "beta_slow", rope.beta_slow);
  rope.attention_factor = get_optional(scaling, "attention_factor");
  rope.mscale = get_optional(scaling, "mscale");
  rope.mscale_all_dim = get_optional(scaling, "mscale_all_dim");
  if (!rope.mscale || !rope.mscale_all_dim || *rope.mscale == 0.0f ||
      *rope.mscale_all_dim == 0.0f) {
    // One of them alone changes nothing in transformers.
    rope.mscale = rope.mscale_all_dim = std::nullopt;
  }
  rope.truncate = scaling.get_bool_or("truncate", true);
  if (rope.type == RopeType::llama3) {
    rope.low_freq_factor = get_positive(scaling, "low_freq_factor", 1.0);
    rope.high_freq_factor = get_positive(scaling, "high_freq_factor", 4.0);
    if (rope.high_freq_factor <= rope.low_freq_factor) {
      scaling.fail("high_freq_factor", "must be above low_freq_factor");
    }
  }
}

RopeArgs parse_rope(const Config& config, int max_position_embeddings) {
  RopeArgs rope;
  rope.theta = get_positive(config, "rope_theta", rope.theta);
  if (config.get_float_or("partial_rotary_factor", 1.0) != 1.0) {
    config.fail("partial_rotary_factor", "only 1.0 is supported");
  }
  // The older "rope_scaling" wins where both are given, as in transformers.
  for (const auto* key : {"rope_scaling", "rope_parameters"}) {
    const auto scaling = config.find_sub(key);
    if (scaling && !scaling->keys().empty()) {
      parse_scaling(rope, *scaling, max_position_embeddings);
      break;
    }
  }
  return rope;
}

/// Which layers slide: an own list where the model type honours one, else
/// transformers' default for the type.
void parse_sliding(ModelArgs& args, const Config& config) {
  const auto& type = args.model_type;
  if (type == "llama" || !config.get_bool_or("use_sliding_window", false)) {
    return; // transformers clears sliding_window without the switch
  }
  if (config.is_null("sliding_window")) {
    return;
  }
  args.sliding_window = get_size_or(config, "sliding_window", 4096);
  const auto n_layers = static_cast<std::size_t>(args.num_hidden_layers);
  if (type == "qwen3_moe") {
    args.sliding_layers.assign(n_layers, true); // no list, all layers
    return;
  }
  if (const auto names = config.get_strings("layer_types"); !names.empty()) {
    if (names.size() != n_layers) {
      config.fail(
          "layer_types",
          "expected one entry for each of " + std::to_string(n_layers) +
              " layers, found " + std::to_string(names.size()));
    }
    for (std::size_t idx = 0; idx < names.size(); ++idx) {
      const bool slides = names[idx] == "sliding_attention";
      if (!slides && names[idx] != "full_attention") {
        config.fail(
            "layer_types[" + std::to_string(idx) + "]",
            "expected full_attention or sliding_attention, found \"" +
                names[idx] + "\"");
      }
      args.sliding_layers.push_back(slides);
    }
    return;
  }
  const auto max_window_layers =
      config.get_int_or("max_window_layers", 28, 0, int_max);
  for (std::int64_t idx = 0; idx < args.num_hidden_layers; ++idx) {
    args.sliding_layers.push_back(
        type == "qwen2_moe" ? idx % 2 == 0 && idx < max_window_layers
                            : idx >= max_window_layers);
  }
}

void parse_experts(ModelArgs& args, const Config& config) {
  // transformers 5 writes the second name for qwen3_moe.
  const std::string_view key =
      config.has("num_experts") ? "num_experts" : "num_local_experts";
  const bool is_moe = args.model_type.ends_with("_moe");
  if (is_moe && !config.has(key)) {
    config.fail("num_experts", "is missing, expected an integer");
  }
  args.num_experts = static_cast<int>(config.get_int_or(key, 0, 0, 1 << 16));
  if (args.num_experts == 0) {
    return;
  }
  args.num_experts_per_tok = static_cast<int>(
      config.get_int("num_experts_per_tok", 1, args.num_experts));
  args.moe_intermediate_size = get_size(config, "moe_intermediate_size");
  args.shared_expert_intermediate_size = static_cast<int>(
      config.get_int_or("shared_expert_intermediate_size", 0, 0, max_size));
  args.decoder_sparse_step = get_size_or(config, "decoder_sparse_step", 1);
  args.norm_topk_prob = config.get_bool_or("norm_topk_prob", false);
  for (const auto idx :
       config.get_ints("mlp_only_layers", 0, args.num_hidden_layers - 1)) {
    args.mlp_only_layers.push_back(static_cast<int>(idx));
  }
}

void parse_ids(ModelArgs& args, const Config& config) {
  for (const auto id : config.get_ints("eos_token_id", 0, int_max)) {
    args.eos_token_ids.push_back(static_cast<std::uint32_t>(id));
  }
  // -1 and null both say that there is none.
  const auto bos = config.get_int_or("bos_token_id", -1, -1, int_max);
  if (bos >= 0) {
    args.bos_token_id = static_cast<std::uint32_t>(bos);
  }
}

/// transformers' rule where config.json has no head_dim.
int default_head_dim(const ModelArgs& args, const Config& config) {
  if (args.model_type == "qwen3") {
    return 128;
  }
  if (args.hidden_size % args.num_attention_heads != 0) {
    config.fail(
        "num_attention_heads",
        "expected a divisor of hidden_size " +
            std::to_string(args.hidden_size) + ", found " +
            std::to_string(args.num_attention_heads));
  }
  return args.hidden_size / args.num_attention_heads;
}

void parse_attention(ModelArgs& args, const Config& config) {
  args.num_attention_heads = get_size(config, "num_attention_heads");
  args.num_key_value_heads =
      get_size_or(config, "num_key_value_heads", args.num_attention_heads);
  if (args.num_attention_heads % args.num_key_value_heads != 0) {
    config.fail(
        "num_key_value_heads",
        "expected a divisor of num_attention_heads " +
            std::to_string(args.num_attention_heads) + ", found " +
            std::to_string(args.num_key_value_heads));
  }
  args.head_dim = config.has("head_dim")
      ? static_cast<int>(config.get_int("head_dim", 2, 1 << 16))
      : default_head_dim(args, config);
  if (args.head_dim % 2 != 0) {
    config.fail(
        "head_dim",
        "expected an even number for rotary embeddings, found " +
            std::to_string(args.head_dim));
  }
  const auto heads =
      std::int64_t{args.num_attention_heads} + 2 * args.num_key_value_heads;
  if (heads > max_size / args.head_dim) {
    config.fail(
        "num_attention_heads",
        "expected heads of " + std::to_string(args.head_dim) +
            " with at most " + std::to_string(max_size) +
            " numbers in all, found " + std::to_string(heads) +
            " of queries, keys and values");
  }
  args.attention_bias = config.get_bool_or("attention_bias", false);
  args.qkv_bias = config.get_bool_or("qkv_bias", true);
  args.mlp_bias = config.get_bool_or("mlp_bias", false);
}

} // namespace

std::optional<int> ModelArgs::sliding_window_of(int layer_idx) const {
  const auto idx = static_cast<std::size_t>(layer_idx);
  const bool slides = idx < sliding_layers.size() && sliding_layers[idx];
  return slides ? sliding_window : std::nullopt;
}

bool ModelArgs::is_sparse(int layer_idx) const {
  return num_experts > 0 && (layer_idx + 1) % decoder_sparse_step == 0 &&
      std::find(mlp_only_layers.begin(), mlp_only_layers.end(), layer_idx) ==
      mlp_only_layers.end();
}

ModelArgs parse_model_args(const Config& config) {
  ModelArgs args;
  args.config = config;
  args.model_type = config.get_string("model_type");
  args.hidden_size = get_size(config, "hidden_size");
  args.num_hidden_layers =
      static_cast<int>(config.get_int("num_hidden_layers", 1, max_layers));
  args.vocab_size = get_size(config, "vocab_size");
  args.max_position_embeddings = get_size_or(
      config,
      "max_position_embeddings",
      args.model_type == "llama" ? 2048 : 32768);
  args.rms_norm_eps = get_positive(config, "rms_norm_eps", 1e-6);
  args.tie_word_embeddings = config.get_bool_or("tie_word_embeddings", false);
  parse_attention(args, config);
  args.rope_scaling = parse_rope(config, args.max_position_embeddings);
  args.rope_theta = args.rope_scaling.theta;
  parse_experts(args, config);
  // A model whose layers are all sparse needs no dense size.
  args.intermediate_size = args.num_experts > 0
      ? get_size_or(config, "intermediate_size", args.moe_intermediate_size)
      : get_size(config, "intermediate_size");
  parse_sliding(args, config);
  parse_ids(args, config);
  const auto activation = config.get_string_or("hidden_act", "silu");
  if (activation != "silu" && activation != "swish") {
    config.fail("hidden_act", "expected silu, found \"" + activation + "\"");
  }
  for (const auto* key : {"torch_dtype", "dtype"}) {
    if (!args.dtype && config.has(key)) {
      args.dtype = config.get_string(key);
    }
  }
  args.quantization = parse_quantization(config);
  return args;
}

ModelArgs get_model_args(const std::filesystem::path& path) {
  if (std::filesystem::is_directory(path)) {
    return parse_model_args(Config::load(path / "config.json"));
  }
  if (!is_gguf(path)) {
    throw FileError(
        path, "expected a directory with config.json, or a GGUF file");
  }
  return parse_model_args(config_from_gguf(GgufParts(path)));
}

} // namespace qwen3_mlx
