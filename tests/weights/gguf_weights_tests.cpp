// SPDX-License-Identifier: MIT
// GGUF files against what the `gguf` package dequantizes them to, to the bit
// (scripts/make_weights_goldens.py).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <numbers>

#include "formats/gguf.h"
#include "qwen3_mlx/error.h"
#include "testing/file_builders.h"
#include "testing/temp_dir.h"
#include "weights/load_plan.h"
#include "weights/reading.h"

namespace qwen3_mlx {
namespace {

using testing::concatenate;
using testing::dequantize;
using ::testing::ElementsAre;
using testing::floats_of;
using testing::GgufBuilder;
using ::testing::HasSubstr;

std::filesystem::path golden(const std::string& name) {
  return std::filesystem::path(QWEN3_MLX_TEST_DATA) / "gguf" / name;
}

struct Case {
  ModelArgs args;
  LoadPlan plan;
  SafetensorsFile expected;

  explicit Case(const std::string& name, PlanOptions options = {})
      : args(get_model_args(golden(name + ".gguf"))),
        plan(Checkpoint::open(golden(name + ".gguf")), args, options),
        expected(golden(name + ".safetensors")) {}

  std::vector<float> floats(const std::string& name) const {
    return floats_of(expected, name);
  }
};

TEST(GgufWeights, LlamaIsExact) {
  // With float16 scales and widened to float32 the elements are the same.
  for (const bool widen : {false, true}) {
    Case golden_case("llama", {.dtype = std::nullopt, .widen = widen});
    const auto w = golden_case.plan.weights().sub("model");
    const auto layer = w.sub("layers", 0);
    const auto attention = layer.sub("self_attn");
    const auto embedding = w.sub("embed_tokens").matrix(40, 64);
    const auto norm_1 = layer.vector("input_layernorm.weight", 64);
    const auto norm_2 = layer.vector("post_attention_layernorm.weight", 64);
    const auto norm_3 = w.vector("norm.weight", 64);
    const auto qkv = attention.merged(
        std::array<std::string_view, 3>{"q_proj", "k_proj", "v_proj"},
        std::array{64, 32, 32},
        64);
    ASSERT_TRUE(qkv);
    const auto o_proj = attention.sub("o_proj").matrix(64, 64);
    const auto mlp = layer.sub("mlp");
    // Q4_0 and F16 do not merge; nothing is taken then.
    EXPECT_FALSE(mlp.merged(
        std::array<std::string_view, 2>{"gate_proj", "up_proj"},
        std::array{96, 96},
        64));
    const auto gate = mlp.sub("gate_proj").matrix(96, 64);
    const auto up = mlp.sub("up_proj").matrix(96, 64);
    const auto down = mlp.sub("down_proj").matrix(64, 96);
    golden_case.plan.read(2);

    const auto dtype = widen ? mx::float32 : mx::float16;
    const std::string prefix = "model.layers.0.";
    const std::string attn = prefix + "self_attn.";
    EXPECT_EQ(golden_case.plan.weights().dtype(), dtype);
    EXPECT_EQ(qkv->scales->dtype(), dtype);
    EXPECT_EQ(qkv->format, (QuantFormat{QuantMode::affine, 4, 32}));
    EXPECT_EQ(embedding.format, (QuantFormat{QuantMode::affine, 8, 32}));
    EXPECT_EQ(
        dequantize(*qkv),
        concatenate(
            concatenate(
                golden_case.floats(attn + "q_proj.weight"),
                golden_case.floats(attn + "k_proj.weight")),
            golden_case.floats(attn + "v_proj.weight")));
    const auto expect = [&](const Matrix& matrix, const std::string& name) {
      EXPECT_EQ(dequantize(matrix), golden_case.floats(name + ".weight"));
    };
    expect(embedding, "model.embed_tokens");
    expect(gate, prefix + "mlp.gate_proj");
    expect(up, prefix + "mlp.up_proj");
    expect(down, prefix + "mlp.down_proj");
    EXPECT_EQ(o_proj.weight.dtype(), dtype);
    if (widen) {
      expect(o_proj, attn + "o_proj");
      EXPECT_EQ(
          floats_of(norm_1),
          golden_case.floats(prefix + "input_layernorm.weight"));
      EXPECT_EQ(floats_of(norm_3), golden_case.floats("model.norm.weight"));
    } else {
      auto rounded = golden_case.floats("model.norm.weight");
      for (auto& value : rounded) {
        value = static_cast<float>(mx::float16_t(value));
      }
      EXPECT_EQ(floats_of(norm_3), rounded);
    }
    EXPECT_EQ(norm_2.dtype(), dtype);
  }
}

TEST(GgufWeights, ExpertsAreExact) {
  Case golden_case("qwen3moe");
  const auto root = golden_case.plan.weights();
  const auto w = root.sub("model");
  const auto layer = w.sub("layers", 0);
  const auto attention = layer.sub("self_attn");
  const auto take = [](const Weights& module, int out, int in) {
    return module.matrix(out, in);
  };
  take(w.sub("embed_tokens"), 40, 64);
  take(attention.sub("q_proj"), 64, 64);
  take(attention.sub("k_proj"), 32, 64);
  take(attention.sub("v_proj"), 32, 64);
  take(attention.sub("o_proj"), 64, 64);
  for (const auto* norm : {"input_layernorm", "post_attention_layernorm"}) {
    layer.sub(norm).vector("weight", 64);
  }
  attention.vector("q_norm.weight", 16);
  attention.vector("k_norm.weight", 16);
  w.vector("norm.weight", 64);
  const auto head = take(root.sub("lm_head"), 40, 64);
  const auto router = take(layer.sub("mlp").sub("gate"), 3, 64);
  const auto experts = layer.sub("mlp").sub("switch_mlp");
  const auto gate_up = experts.merged_experts(
      std::array<std::string_view, 2>{"gate_proj", "up_proj"}, 3, 32, 64);
  const auto down = experts.sub("down_proj").experts(3, 64, 32);
  golden_case.plan.read();

  EXPECT_EQ(dequantize(head), golden_case.floats("lm_head.weight"));
  EXPECT_EQ(router.weight.dtype(), mx::float16);
  const std::string prefix = "model.layers.0.mlp.switch_mlp.";
  EXPECT_EQ(dequantize(down), golden_case.floats(prefix + "down_proj.weight"));
  // Q4_0 gate rows, then Q4_1 up rows, of each expert.
  ASSERT_TRUE(gate_up);
  EXPECT_EQ(gate_up->weight.shape(), (mx::Shape{3, 64, 8}));
  const auto gate = golden_case.floats(prefix + "gate_proj.weight");
  const auto up = golden_case.floats(prefix + "up_proj.weight");
  std::vector<float> expected;
  constexpr std::ptrdiff_t half = 32 * 64;
  for (std::ptrdiff_t expert = 0; expert < 3; ++expert) {
    for (const auto& part : {gate, up}) {
      const auto begin = part.begin() + expert * half;
      expected.insert(expected.end(), begin, begin + half);
    }
  }
  EXPECT_EQ(dequantize(*gate_up), expected);
}

TEST(GgufWeights, MetadataBecomesModelArgs) {
  const auto llama = get_model_args(golden("llama.gguf"));
  EXPECT_EQ(llama.model_type, "llama");
  EXPECT_EQ(llama.hidden_size, 64);
  EXPECT_EQ(llama.head_dim, 16);
  EXPECT_EQ(llama.vocab_size, 40);
  EXPECT_EQ(llama.rope_scaling.theta, 100000.0f);
  EXPECT_EQ(llama.rms_norm_eps, 1e-5f);
  EXPECT_TRUE(llama.tie_word_embeddings);
  EXPECT_THAT(llama.eos_token_ids, ElementsAre(2u));
  const auto moe = get_model_args(golden("qwen3moe.gguf"));
  EXPECT_EQ(moe.model_type, "qwen3_moe");
  EXPECT_FALSE(moe.tie_word_embeddings);
  EXPECT_EQ(moe.num_experts, 3);
  EXPECT_EQ(moe.num_experts_per_tok, 2);
  EXPECT_EQ(moe.moe_intermediate_size, 32);
  EXPECT_TRUE(moe.norm_topk_prob);
}

GgufBuilder small_llama() {
  return GgufBuilder()
      .entry("general.architecture", "llama")
      .entry("llama.block_count", 1u)
      .entry("llama.embedding_length", 64u)
      .entry("llama.feed_forward_length", 64u)
      .entry("llama.attention.head_count", 4u);
}

/// A llama with head_dim 128 and theta 500000, and factors for its 64 pairs as
/// llama.cpp's converter writes them for Llama 3.1 and `factor`.
std::string with_rope_factors(float factor, float error = 0.0f) {
  std::string factors;
  for (int pair = 0; pair < 64; ++pair) {
    const double wavelength =
        2 * std::numbers::pi * std::pow(500000.0, pair / 64.0);
    double value = factor;
    if (wavelength < 8192.0 / 4.0) {
      value = 1.0;
    } else if (wavelength <= 8192.0) {
      const double smooth = (8192.0 / wavelength - 1.0) / (4.0 - 1.0);
      value = 1.0 / ((1.0 - smooth) / factor + smooth);
    }
    factors += testing::bytes_of(static_cast<float>(value) + error);
  }
  return small_llama()
      .entry("llama.rope.dimension_count", 128u)
      .entry("llama.rope.freq_base", 500000.0f)
      .tensor("rope_freqs.weight", {64}, 0, 0)
      .tensor("token_embd.weight", {64, 2}, 0, 256)
      .data(factors + std::string(512, '\0'))
      .build();
}

TEST(GgufWeights, RopeFactorsBecomeLlama3Scaling) {
  const testing::TempDir dir;
  for (const float factor : {8.0f, 32.0f}) {
    const auto path = dir.write("model.gguf", with_rope_factors(factor));
    const auto rope = get_model_args(path).rope_scaling;
    EXPECT_EQ(rope.type, RopeType::llama3);
    EXPECT_EQ(rope.factor, factor);
    EXPECT_EQ(rope.high_freq_factor, 4.0f);
    EXPECT_EQ(rope.original_max_position_embeddings, 8192);
    EXPECT_EQ(Checkpoint::open(path).find("rope_freqs.weight"), nullptr);
  }
}

/// A llama with a rope scaling of `type` by 4 and llama.cpp's attn_factor.
std::string with_attention_factor(const char* type, float attn_factor) {
  return small_llama()
      .entry("llama.rope.scaling.type", type)
      .entry("llama.rope.scaling.factor", 4.0f)
      .entry("llama.rope.scaling.original_context_length", 2048u)
      .entry("llama.rope.scaling.attn_factor", attn_factor)
      .tensor("token_embd.weight", {64, 2}, 0, 0)
      .data(std::string(512, '\0'))
      .build();
}

TEST(GgufWeights, AttentionFactorMultipliesYarnsOwn) {
  const testing::TempDir dir;
  const auto rope_of = [&dir](const char* type, float attn_factor) {
    return get_model_args(
               dir.write(
                   "model.gguf", with_attention_factor(type, attn_factor)))
        .rope_scaling;
  };
  EXPECT_EQ(rope_of("yarn", 1.0f).attention_factor, std::nullopt);
  const auto product = rope_of("yarn", 0.5f).attention_factor;
  ASSERT_TRUE(product.has_value());
  EXPECT_NEAR(*product, 0.5 * (1.0 + 0.1 * std::log(4.0)), 1e-6);
  EXPECT_EQ(rope_of("linear", 1.0f).type, RopeType::linear);
  EXPECT_THROW(rope_of("linear", 0.5f), FieldError);
}

void expect_error(
    const std::string& bytes,
    const std::string& place,
    const std::string& reason) {
  const testing::TempDir dir;
  const auto path = dir.write("model.gguf", bytes);
  try {
    const auto args = get_model_args(path);
    LoadPlan plan(Checkpoint::open(path), args);
    plan.weights().sub("model").sub("embed_tokens").matrix(2, 64);
    plan.read();
    FAIL() << "was accepted";
  } catch (const FileError& error) {
    EXPECT_EQ(error.path(), path);
    EXPECT_THAT(error.what(), HasSubstr(place));
    EXPECT_THAT(error.what(), HasSubstr(reason));
  }
}

TEST(GgufWeights, ErrorsNameTensorAndType) {
  const auto with_embedding = [](GgufBuilder builder, std::uint32_t type) {
    return builder.tensor("token_embd.weight", {64, 2}, type, 0)
        .data(std::string(1024, '\0'))
        .build();
  };
  expect_error(
      GgufBuilder().entry("general.architecture", "gemma").build(),
      "general.architecture",
      "llama, qwen2, qwen2moe, qwen3, qwen3moe");
  expect_error(GgufBuilder().build(), "general.architecture", "found none");
  expect_error(
      GgufBuilder().entry("general.architecture", "qwen3").build(),
      "qwen3.embedding_length",
      "is missing");
  expect_error(small_llama().build(), "token_embd.weight", "is missing");
  expect_error(
      with_embedding(small_llama(), /* q8_1 */ 9),
      "token_embd.weight",
      "stored as Q8_1, which cannot be read");
  expect_error(
      with_embedding(
          small_llama().entry("llama.rope.scaling.type", "longrope"), 0),
      "llama.rope.scaling.type",
      "found \"longrope\"");
  expect_error(
      with_embedding(small_llama().entry("llama.expert_count", 8u), 0),
      "llama.expert_count",
      "only qwen2moe and qwen3moe");
  expect_error(
      with_rope_factors(8.0f, /* error */ 0.01f),
      "rope_freqs.weight",
      "Llama 3's rope scaling, the only one");
  // A scale for which -8 d is no float16.
  std::string blocks(18 * 4, '\0');
  blocks[18] = '\x00';
  blocks[19] = '\x7B'; // 57344
  expect_error(
      small_llama()
          .tensor("token_embd.weight", {64, 2}, /* q4_0 */ 2, 0)
          .data(blocks)
          .build(),
      "token_embd.weight",
      "too large for float16");
}

} // namespace
} // namespace qwen3_mlx
