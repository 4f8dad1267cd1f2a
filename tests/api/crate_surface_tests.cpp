// SPDX-License-Identifier: MIT
// Every name and field of the Rust crate qwen3-mlx has its counterpart here.
// docs/crate.md holds the table; its rows are the comments of the assertions
// below, most of which the compiler checks.
#include <gtest/gtest.h>

#include <concepts>
#include <filesystem>
#include <fstream>
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
#include "qwen3_mlx/step_input.h"
#include "qwen3_mlx/tokenizer.h"

namespace qwen3_mlx {
namespace {

using Path = const std::filesystem::path&;

// Rows are one line, as in the table.
// clang-format off

// `load_model(dir)`, `load_tokenizer(dir)`, `get_model_args(dir)`
static_assert(requires(Path dir, const LoadOptions& options) {
  { load_model(dir) } -> std::same_as<Model>;
  { load_model(dir, options) } -> std::same_as<Model>;
  { load_tokenizer(dir) } -> std::same_as<Tokenizer>;
  { get_model_args(dir) } -> std::same_as<ModelArgs>;
});

// `qwen2::load_qwen2_model`, `qwen3_moe::load_qwen3_moe_model`
static_assert(requires(Path dir) {
  { qwen2::load_qwen2_model(dir) } -> std::same_as<Model>;
  { qwen3::load_qwen3_model(dir) } -> std::same_as<Model>;
  { qwen3_moe::load_qwen3_moe_model(dir) } -> std::same_as<Model>;
});

// `qwen2::load_qwen2_tokenizer`, `get_qwen2_model_args`
// The same functions for every type; see the first row.

// `Model { args, model, lm_head }`
template <class T, class Layers>
concept TypedModel = requires(const T& typed, const Model& handle) {
  { typed.args } -> std::convertible_to<ModelArgs>;
  { (typed.model) } -> std::same_as<const Layers&>;
  { typed.lm_head } -> std::convertible_to<std::optional<Linear>>;
  { handle.template as<T>() } -> std::same_as<const T*>;
};
static_assert(TypedModel<qwen2::Model, qwen2::Qwen2Model>);
static_assert(TypedModel<qwen3::Model, qwen3::Qwen3Model>);
static_assert(TypedModel<qwen3_moe::Model, qwen3_moe::Qwen3MoeModel>);

// `Model::model_type()`
static_assert(requires(const Model& model) {
  { model.args().model_type } -> std::convertible_to<std::string>;
});

// `Qwen3Model { vocab_size, num_hidden_layers, embed_tokens, layers, norm }`
template <class T>
concept Stack = requires(const T& stack) {
  { stack.embed_tokens } -> std::convertible_to<Embedding>;
  {stack.layers.front()};
  { stack.layers.size() } -> std::convertible_to<std::size_t>;
  { stack.norm } -> std::convertible_to<RMSNorm>;
};
static_assert(Stack<qwen2::Qwen2Model>);
static_assert(Stack<qwen3::Qwen3Model>);
static_assert(Stack<qwen3_moe::Qwen3MoeModel>);

// `TransformerBlock { self_attn, mlp, input_layernorm, post_attention_layernorm }`
template <class T>
concept Block = requires(const T& block) {
  { block.self_attn } -> std::convertible_to<Attention>;
  { block.input_layernorm } -> std::convertible_to<RMSNorm>;
  { block.post_attention_layernorm } -> std::convertible_to<RMSNorm>;
};
static_assert(Block<qwen2::TransformerBlock>);
static_assert(Block<qwen3::TransformerBlock>);
static_assert(Block<qwen3_moe::TransformerBlock>);
static_assert(requires(
    const qwen2::TransformerBlock& qwen2_block,
    const qwen3::TransformerBlock& qwen3_block,
    const qwen3_moe::TransformerBlock& moe_block) {
  { qwen2_block.mlp } -> std::convertible_to<qwen2::Mlp>;
  { qwen3_block.mlp } -> std::convertible_to<qwen3::Mlp>;
  { moe_block.mlp } -> std::convertible_to<std::optional<qwen3_moe::Mlp>>;
  {
    moe_block.sparse_mlp
    } -> std::convertible_to<std::optional<SparseMoeBlock>>;
});

// `Attention { n_heads, n_kv_heads, scale, q_proj, k_proj, v_proj, o_proj, q_norm, k_norm, rope }`
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

// `Mlp { gate_proj, up_proj, down_proj }`
static_assert(requires(const qwen3::Mlp& mlp, const mx::array& x) {
  { mlp.gate_proj(x) } -> std::same_as<mx::array>;
  { mlp.up_proj(x) } -> std::same_as<mx::array>;
  { mlp.down_proj(x) } -> std::same_as<mx::array>;
});

// `ModelArgs { model_type ... quantization }`
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

// `FloatOrString`
static_assert(requires(const RopeArgs& rope) {
  { rope.type } -> std::convertible_to<RopeType>;
  { rope.factor } -> std::convertible_to<float>;
  { rope.low_freq_factor } -> std::convertible_to<float>;
  { rope.high_freq_factor } -> std::convertible_to<float>;
  {
    rope.original_max_position_embeddings
    } -> std::convertible_to<std::optional<int>>;
});

// `QuantizationConfig { group_size, bits }`
static_assert(requires(const QuantizationConfig& quantization) {
  { quantization.group_size() } -> std::convertible_to<int>;
  { quantization.bits() } -> std::convertible_to<int>;
});

// `MaybeQuantized<Linear>`
static_assert(requires(const Linear& linear, const mx::array& x) {
  { linear(x) } -> std::same_as<mx::array>;
  { linear.matrix().format.is_quantized() } -> std::same_as<bool>;
});

// `ModelInput { inputs, mask, cache }`, `AttentionInput { x, mask, cache }`
static_assert(requires(
    const Model& model,
    const mx::array& inputs,
    std::vector<KVCache>& cache,
    const StepInput& step,
    const qwen3::Attention& attention,
    const RMSNorm& norm,
    const LayerStep& layer) {
  { model(inputs, cache) } -> std::same_as<mx::array>;
  { model.forward(step) } -> std::same_as<mx::array>;
  { step.tokens } -> std::convertible_to<mx::array>;
  { step.segments.front().cache } -> std::convertible_to<std::span<KVCache>>;
  { attention(inputs, norm, layer) } -> std::same_as<mx::array>;
});

// `KVCache { keys, values }`, `KeyValueCache`, `ConcatKeyValueCache`
static_assert(requires(KVCache & cache, const mx::array& x) {
  { cache.keys() } -> std::same_as<std::optional<mx::array>>;
  { cache.values() } -> std::same_as<std::optional<mx::array>>;
  { cache.offset() } -> std::convertible_to<int>;
  { cache.max_size() } -> std::same_as<std::optional<int>>;
  { cache.update_and_fetch(x, x) } -> std::same_as<KeyValues>;
  cache.reset();
});
static_assert(!std::copyable<KVCache> && std::movable<KVCache>);

// `create_attention_mask`, `scaled_dot_product_attention`
static_assert(
    requires(KVStore & store, const mx::array& x, const AttentionMask& mask) {
      { store.attend(x, x, x, mask) } -> std::same_as<mx::array>;
      { mask.scale } -> std::convertible_to<float>;
      { mask.window } -> std::convertible_to<std::optional<int>>;
    });

// `initialize_rope`
static_assert(std::constructible_from<Rope, const RopeArgs&, int, int>);

// `Generate::new(model, cache, temp, prompt)`
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

// `Tokenizer::encode(text, add_special_tokens)`, `decode(ids, skip_special_tokens)`
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

// examples `generate_qwen3`, `chat_qwen3`
// Compiled from examples/ and run by tests/cli/examples_tests.cpp.

// clang-format on

// `sample(logits, temp)`
TEST(CrateSurface, SampleIsGreedyAtTemperatureZero) {
  const mx::array logits({0.1f, 2.0f, -1.0f}, {1, 3});
  auto id = sample(logits, 0.0f);
  EXPECT_EQ(id.item<std::uint32_t>(), 1u);
}

TEST(CrateSurface, EveryRowOfTheTableIsAsserted) {
  std::ostringstream source;
  source << std::ifstream(QWEN3_MLX_CRATE_TEST).rdbuf();
  std::ifstream table(QWEN3_MLX_CRATE_TABLE);
  const std::string begin = "| ";
  int n_rows = 0;
  for (std::string line; std::getline(table, line);) {
    const auto end = line.find(" |", begin.size());
    if (!line.starts_with(begin) || end == std::string::npos ||
        line.starts_with("| the crate's")) {
      continue;
    }
    ++n_rows;
    const auto row = line.substr(begin.size(), end - begin.size());
    EXPECT_NE(source.str().find("\n// " + row + "\n"), std::string::npos)
        << row;
  }
  EXPECT_GE(n_rows, 20);
}

} // namespace
} // namespace qwen3_mlx
