// SPDX-License-Identifier: MIT
// Every name and field of the Rust crate qwen3-mlx has its counterpart here;
// docs/crate.md holds the table. Most of it is checked by the compiler.
#include <gtest/gtest.h>

#include <concepts>
#include <filesystem>
#include <iterator>
#include <optional>
#include <ranges>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "qwen3_mlx/generate.h"
#include "qwen3_mlx/kv_cache.h"
#include "qwen3_mlx/model.h"
#include "qwen3_mlx/models/qwen2.h"
#include "qwen3_mlx/models/qwen3.h"
#include "qwen3_mlx/models/qwen3_moe.h"
#include "qwen3_mlx/sampling.h"
#include "qwen3_mlx/tokenizer.h"

namespace qwen3_mlx {
namespace {

using Path = const std::filesystem::path&;

// load_model, load_tokenizer, get_model_args
static_assert(requires(Path dir, const LoadOptions& options) {
  { load_model(dir) } -> std::same_as<Model>;
  { load_model(dir, options) } -> std::same_as<Model>;
  { load_tokenizer(dir) } -> std::same_as<Tokenizer>;
  { get_model_args(dir) } -> std::same_as<ModelArgs>;
});

// qwen2::load_qwen2_model and the like
static_assert(requires(Path dir) {
  { qwen2::load_qwen2_model(dir) } -> std::same_as<Model>;
  { qwen3::load_qwen3_model(dir) } -> std::same_as<Model>;
  { qwen3_moe::load_qwen3_moe_model(dir) } -> std::same_as<Model>;
});

// ModelArgs
static_assert(requires(const ModelArgs& args) {
  { args.model_type } -> std::convertible_to<std::string>;
  { args.hidden_size } -> std::convertible_to<int>;
  { args.num_hidden_layers } -> std::convertible_to<int>;
  { args.intermediate_size } -> std::convertible_to<int>;
  { args.num_attention_heads } -> std::convertible_to<int>;
  { args.rms_norm_eps } -> std::convertible_to<float>;
  { args.vocab_size } -> std::convertible_to<int>;
  { args.num_key_value_heads } -> std::convertible_to<int>;
  { args.max_position_embeddings } -> std::convertible_to<int>;
  { args.rope_theta } -> std::convertible_to<float>;
  { args.head_dim } -> std::convertible_to<int>;
  { args.tie_word_embeddings } -> std::convertible_to<bool>;
  { args.rope_scaling } -> std::convertible_to<RopeArgs>;
  {
    args.quantization
    } -> std::convertible_to<std::optional<QuantizationConfig>>;
  // qwen3_moe::ModelArgs
  { args.num_experts } -> std::convertible_to<int>;
  { args.num_experts_per_tok } -> std::convertible_to<int>;
  { args.moe_intermediate_size } -> std::convertible_to<int>;
  { args.decoder_sparse_step } -> std::convertible_to<int>;
  { args.mlp_only_layers } -> std::convertible_to<std::vector<int>>;
  { args.norm_topk_prob } -> std::convertible_to<bool>;
});

// QuantizationConfig { group_size, bits }
static_assert(requires(const QuantizationConfig& quantization) {
  { quantization.group_size() } -> std::convertible_to<int>;
  { quantization.bits() } -> std::convertible_to<int>;
});

// Model { args, model, lm_head }
template <class T>
concept TypedModel = requires(const T& typed) {
  { typed.args } -> std::convertible_to<ModelArgs>;
  { typed.model.embed_tokens } -> std::convertible_to<Embedding>;
  { typed.model.layers.front().self_attn } -> std::convertible_to<Attention>;
  {
    typed.model.layers.front().input_layernorm
    } -> std::convertible_to<RMSNorm>;
  {
    typed.model.layers.front().post_attention_layernorm
    } -> std::convertible_to<RMSNorm>;
  { typed.model.norm } -> std::convertible_to<RMSNorm>;
  { typed.lm_head } -> std::convertible_to<std::optional<Linear>>;
};
static_assert(TypedModel<qwen2::Model>);
static_assert(TypedModel<qwen3::Model>);
static_assert(TypedModel<qwen3_moe::Model>);
static_assert(std::same_as<decltype(qwen3::Model::model), qwen3::Qwen3Model>);

// TransformerBlock { self_attn, mlp, ... }
static_assert(requires(const qwen3::TransformerBlock& block) {
  { block.mlp } -> std::convertible_to<qwen3::Mlp>;
});

// Attention { n_heads, n_kv_heads, scale, projections, norms, rope }
static_assert(requires(const qwen3::Attention& attention) {
  { attention.n_heads } -> std::convertible_to<int>;
  { attention.n_kv_heads } -> std::convertible_to<int>;
  { attention.scale } -> std::convertible_to<float>;
  { attention.q_proj } -> std::convertible_to<Linear>;
  { attention.k_proj } -> std::convertible_to<Linear>;
  { attention.v_proj } -> std::convertible_to<Linear>;
  { attention.o_proj } -> std::convertible_to<Linear>;
  { attention.q_norm } -> std::convertible_to<std::optional<RMSNorm>>;
  { attention.k_norm } -> std::convertible_to<std::optional<RMSNorm>>;
  { attention.rope } -> std::convertible_to<Rope>;
});

// Mlp { gate_proj, up_proj, down_proj }; MaybeQuantized is Linear over Matrix.
static_assert(requires(const qwen3::Mlp& mlp, const mx::array& x) {
  { mlp.gate_proj(x) } -> std::same_as<mx::array>;
  { mlp.up_proj(x) } -> std::same_as<mx::array>;
  { mlp.down_proj(x) } -> std::same_as<mx::array>;
  { mlp.gate_proj.matrix().format } -> std::convertible_to<QuantFormat>;
});

// KVCache { keys, values } and KeyValueCache
static_assert(requires(KVCache & cache, const mx::array& x) {
  { cache.keys() } -> std::same_as<std::optional<mx::array>>;
  { cache.values() } -> std::same_as<std::optional<mx::array>>;
  { cache.offset() } -> std::convertible_to<int>;
  { cache.max_size() } -> std::same_as<std::optional<int>>;
  { cache.update_and_fetch(x, x) } -> std::same_as<KeyValues>;
  cache.reset();
});
static_assert(!std::copyable<KVCache> && std::movable<KVCache>);

// Model::forward(ModelInput { inputs, mask, cache }): masks follow from the
// cache here.
static_assert(requires(
    const Model& model,
    const mx::array& inputs,
    std::vector<KVCache>& cache,
    const StepInput& step) {
  { model(inputs, cache) } -> std::same_as<mx::array>;
  { model.forward(step) } -> std::same_as<mx::array>;
});

// Generate::new(model, cache, temp, prompt), an iterator over tokens
static_assert(std::constructible_from<
              Generate,
              Model,
              std::vector<KVCache>&,
              float,
              const mx::array&>);
static_assert(std::constructible_from<
              Generate,
              Model,
              std::vector<KVCache>&,
              std::span<const std::uint32_t>,
              SamplingParams,
              GenerateOptions>);
static_assert(std::ranges::input_range<Generate>);
static_assert(
    std::same_as<std::ranges::range_value_t<Generate>, std::uint32_t>);

// Tokenizer::encode(text, add_special_tokens), decode(ids, skip_special_tokens)
static_assert(requires(
    const Tokenizer& tokenizer,
    const std::vector<std::uint32_t>& ids) {
  {
    tokenizer.encode("text", /* add_special_tokens */ true)
    } -> std::same_as<std::vector<std::uint32_t>>;
  {
    tokenizer.decode(ids, /* skip_special_tokens */ true)
    } -> std::same_as<std::string>;
});

TEST(CrateSurface, SampleIsGreedyAtTemperatureZero) {
  const mx::array logits({0.1f, 2.0f, -1.0f}, {1, 3});
  auto id = sample(logits, 0.0f);
  EXPECT_EQ(id.item<std::uint32_t>(), 1u);
}

} // namespace
} // namespace qwen3_mlx
