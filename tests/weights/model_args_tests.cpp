// SPDX-License-Identifier: MIT
#include "qwen3_mlx/model_args.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "qwen3_mlx/error.h"
#include "qwen3_mlx/generation_config.h"
#include "testing/temp_dir.h"

namespace qwen3_mlx {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

/// A config of small sizes, with `more` fields in front (of a repeated key the
/// first would be refused, so these must be new ones).
std::string
config_text(const std::string& model_type, const std::string& more = "") {
  const std::string moe = model_type.ends_with("_moe")
      ? R"("num_experts_per_tok":2,"moe_intermediate_size":32,)"
      : "";
  return "{" + more + (more.empty() ? "" : ",") + moe + R"("model_type":")" +
      model_type +
      R"(","hidden_size":64,"num_hidden_layers":4,"intermediate_size":96,)"
      R"("num_attention_heads":4,"vocab_size":40})";
}

ModelArgs parse(const std::string& type, const std::string& more = "") {
  return parse_model_args(
      Config::parse("config.json", config_text(type, more)));
}

TEST(ModelArgs, DefaultsAreThoseOfTransformers) {
  const auto qwen2 = parse("qwen2");
  EXPECT_EQ(qwen2.num_key_value_heads, 4);
  EXPECT_EQ(qwen2.head_dim, 16);
  EXPECT_EQ(qwen2.max_position_embeddings, 32768);
  EXPECT_EQ(qwen2.rms_norm_eps, 1e-6f);
  EXPECT_EQ(qwen2.rope_theta, 10000.0f);
  EXPECT_FALSE(qwen2.tie_word_embeddings);
  EXPECT_FALSE(qwen2.attention_bias);
  EXPECT_TRUE(qwen2.qkv_bias);
  EXPECT_FALSE(qwen2.is_sparse(0));
  EXPECT_FALSE(qwen2.quantization);
  EXPECT_EQ(parse("qwen3").head_dim, 128);
  EXPECT_EQ(parse("llama").max_position_embeddings, 2048);
  EXPECT_EQ(parse("qwen3", R"("head_dim":32)").head_dim, 32);
  // Which architectures exist is for the models to say.
  EXPECT_EQ(parse("other").model_type, "other");
}

TEST(ModelArgs, BothRopeSpellingsMeanTheSame) {
  const auto old_style = parse(
      "qwen3",
      R"("rope_theta":1e6,"rope_scaling":{"type":"yarn","factor":4.0,)"
      R"("original_max_position_embeddings":32768})");
  const auto new_style = parse(
      "qwen3",
      R"("rope_parameters":{"rope_type":"yarn","rope_theta":1000000,)"
      R"("factor":4,"original_max_position_embeddings":32768})");
  for (const auto& args : {old_style, new_style}) {
    EXPECT_EQ(args.rope_scaling.type, RopeType::yarn);
    EXPECT_EQ(args.rope_theta, 1e6f);
    EXPECT_EQ(args.rope_scaling.factor, 4.0f);
    EXPECT_EQ(args.rope_scaling.original_max_position_embeddings, 32768);
    EXPECT_EQ(args.rope_scaling.beta_fast, 32.0f);
    EXPECT_TRUE(args.rope_scaling.truncate);
  }
}

TEST(ModelArgs, ReadsAllRopeFields) {
  const auto yarn =
      parse(
          "qwen2",
          R"("max_position_embeddings":128,"rope_scaling":{"rope_type":"yarn",)"
          R"("factor":null,"original_max_position_embeddings":32,)"
          R"("beta_fast":16,"beta_slow":0,"attention_factor":1.5,)"
          R"("mscale":1.0,"mscale_all_dim":0.5,"truncate":false})")
          .rope_scaling;
  EXPECT_EQ(yarn.factor, 4.0f); // the ratio of the contexts
  EXPECT_EQ(yarn.beta_fast, 16.0f);
  EXPECT_EQ(yarn.beta_slow, 1.0f); // 0 counts as absent
  EXPECT_EQ(yarn.attention_factor, 1.5f);
  EXPECT_EQ(yarn.mscale_all_dim, 0.5f);
  EXPECT_FALSE(yarn.truncate);
  const auto alone =
      parse(
          "qwen2", R"("rope_scaling":{"type":"yarn","factor":2,"mscale":1.0})")
          .rope_scaling;
  EXPECT_FALSE(alone.mscale);
  const auto llama3 =
      parse(
          "llama",
          R"("rope_scaling":{"rope_type":"llama3","factor":8.0,)"
          R"("low_freq_factor":1.0,"high_freq_factor":4.0,)"
          R"("original_max_position_embeddings":1024})")
          .rope_scaling;
  EXPECT_EQ(llama3.type, RopeType::llama3);
  EXPECT_EQ(llama3.original_max_position_embeddings, 1024);
  const auto dynamic = parse(
                           "llama",
                           R"("rope_scaling":{"type":"dynamic","factor":2.0,)"
                           R"("original_max_position_embeddings":7})")
                           .rope_scaling;
  EXPECT_FALSE(dynamic.original_max_position_embeddings);
  EXPECT_EQ(
      parse("llama", R"("rope_scaling":{"rope_type":"default"})")
          .rope_scaling.type,
      RopeType::none);
}

std::vector<int> sliding(const ModelArgs& args) {
  std::vector<int> layers;
  for (int idx = 0; idx < args.num_hidden_layers; ++idx) {
    if (args.is_sliding(idx)) {
      layers.push_back(idx);
    }
  }
  return layers;
}

TEST(ModelArgs, LayersSlideAsInTransformers) {
  const std::string window =
      R"("use_sliding_window":true,"sliding_window":8,"max_window_layers":2)";
  EXPECT_THAT(sliding(parse("qwen2", window)), ElementsAre(2, 3));
  EXPECT_THAT(sliding(parse("qwen3", window)), ElementsAre(2, 3));
  const std::string experts = window + R"(,"num_experts":4)";
  EXPECT_THAT(sliding(parse("qwen2_moe", experts)), ElementsAre(0));
  EXPECT_THAT(sliding(parse("qwen3_moe", experts)), ElementsAre(0, 1, 2, 3));
  EXPECT_THAT(sliding(parse("llama", window)), IsEmpty());
  EXPECT_EQ(parse("qwen2", window).sliding_window_of(3), 8);
  EXPECT_EQ(parse("qwen2", window).sliding_window_of(0), std::nullopt);
  EXPECT_THAT(
      sliding(parse("qwen2", R"("sliding_window":8,"max_window_layers":0)")),
      IsEmpty());
  EXPECT_THAT(
      sliding(parse(
          "qwen3",
          R"("use_sliding_window":true,"sliding_window":8,"layer_types":)"
          R"(["sliding_attention","full_attention","full_attention",)"
          R"("sliding_attention"])")),
      ElementsAre(0, 3));
}

TEST(ModelArgs, ReadsExperts) {
  const auto moe = parse(
      "qwen3_moe",
      R"("num_local_experts":6,"decoder_sparse_step":2,"mlp_only_layers":[3],)"
      R"("norm_topk_prob":true)");
  EXPECT_EQ(moe.num_experts, 6);
  EXPECT_TRUE(moe.norm_topk_prob);
  EXPECT_FALSE(moe.is_sparse(0));
  EXPECT_TRUE(moe.is_sparse(1));
  EXPECT_FALSE(moe.is_sparse(3));
  const auto shared = parse(
      "qwen2_moe", R"("num_experts":6,"shared_expert_intermediate_size":80)");
  EXPECT_EQ(shared.shared_expert_intermediate_size, 80);
  EXPECT_TRUE(shared.is_sparse(0));
}

TEST(ModelArgs, ReadsQuantization) {
  const auto args = parse(
      "qwen3",
      R"("quantization":{"group_size":32,"bits":4,"mode":"mxfp4",)"
      R"("model.embed_tokens":{"group_size":64,"bits":8},)"
      R"("lm_head":false,"model.norm":true})");
  ASSERT_TRUE(args.quantization);
  const auto& quantization = *args.quantization;
  EXPECT_EQ(quantization.format, (QuantFormat{QuantMode::mxfp4, 4, 32}));
  // Without a mode of its own an entry is affine.
  EXPECT_EQ(
      quantization.modules.at("model.embed_tokens"),
      (QuantFormat{QuantMode::affine, 8, 64}));
  EXPECT_EQ(quantization.modules.at("lm_head"), std::nullopt);
  EXPECT_EQ(quantization.modules.at("model.norm"), quantization.format);
  // By our name or the file's, else the model's format.
  EXPECT_EQ(quantization.format_of("lm_head", "output"), QuantFormat{});
  EXPECT_EQ(
      quantization.format_of("a", "model.embed_tokens"),
      (QuantFormat{QuantMode::affine, 8, 64}));
  EXPECT_EQ(quantization.format_of("a", "b"), quantization.format);
  const auto duplicate =
      parse("qwen3", R"("quantization_config":{"group_size":128,"bits":3})");
  EXPECT_EQ(
      duplicate.quantization->format, (QuantFormat{QuantMode::affine, 3, 128}));
}

TEST(ModelArgs, EverySupportedFormatIsAccepted) {
  int n_affine = 0;
  for (int bits = 0; bits <= 16; ++bits) {
    for (const int group : {16, 32, 64, 128, 256}) {
      n_affine += is_supported({QuantMode::affine, bits, group}) ? 1 : 0;
    }
  }
  EXPECT_EQ(n_affine, 6 * 3);
  EXPECT_TRUE(is_supported({QuantMode::mxfp8, 8, 32}));
  EXPECT_TRUE(is_supported({QuantMode::nvfp4, 4, 16}));
  EXPECT_FALSE(is_supported({QuantMode::nvfp4, 4, 32}));
}

struct Malformed {
  std::string name;
  std::string model_type;
  std::string more;
  std::string field;
  std::string reason;
};

std::ostream& operator<<(std::ostream& out, const Malformed& malformed) {
  return out << malformed.name;
}

class MalformedConfig : public ::testing::TestWithParam<Malformed> {};

TEST_P(MalformedConfig, NamesTheField) {
  const auto& [name, type, more, field, reason] = GetParam();
  try {
    parse(type, more);
    FAIL() << "was accepted";
  } catch (const FieldError& error) {
    EXPECT_EQ(error.path(), "config.json");
    EXPECT_EQ(error.field(), field);
    EXPECT_THAT(error.what(), HasSubstr(reason));
  }
}

std::vector<Malformed> malformed_configs() {
  const auto rope = [](const std::string& fields) {
    return "\"rope_scaling\":{" + fields + "}";
  };
  const auto quantization = [](const std::string& fields) {
    return "\"quantization\":{" + fields + "}";
  };
  return {
      {"HiddenSizeTwice",
       "qwen3",
       R"("hidden_size":64)",
       "hidden_size",
       "twice"},
      {"HeadsDoNotDivide",
       "qwen3",
       R"("num_key_value_heads":3)",
       "num_key_value_heads",
       "divisor of num_attention_heads 4, found 3"},
      {"ZeroHeads",
       "qwen3",
       R"("num_key_value_heads":0)",
       "num_key_value_heads",
       "found 0"},
      {"OddHeadDim", "qwen3", R"("head_dim":15)", "head_dim", "even"},
      {"TextHeadDim", "qwen3", R"("head_dim":"x")", "head_dim", "\"x\""},
      {"HugePositions",
       "qwen3",
       R"("max_position_embeddings":1e12)",
       "max_position_embeddings",
       "expected an integer from 1"},
      {"NegativeEps",
       "qwen3",
       R"("rms_norm_eps":-1e-6)",
       "rms_norm_eps",
       "above 0"},
      {"TiedIsText",
       "qwen3",
       R"("tie_word_embeddings":"yes")",
       "tie_word_embeddings",
       "true or false"},
      {"Activation",
       "qwen3",
       R"("hidden_act":"gelu")",
       "hidden_act",
       "expected silu"},
      {"EosIsNegative",
       "qwen3",
       R"("eos_token_id":[1,-2])",
       "eos_token_id[1]",
       "found -2"},
      {"UnknownRope",
       "qwen3",
       rope(R"("type":"longrope","factor":2)"),
       "rope_scaling.type",
       "default, linear, dynamic, yarn, llama3; found \"longrope\""},
      {"RopeIsText",
       "qwen3",
       R"("rope_scaling":"yarn")",
       "rope_scaling",
       "expected an object"},
      {"NoFactor",
       "qwen3",
       rope(R"("type":"linear")"),
       "rope_scaling.factor",
       "is missing"},
      {"FactorIsText",
       "qwen3",
       rope(R"("type":"linear","factor":"4")"),
       "rope_scaling.factor",
       "finite number"},
      {"FactorIsZero",
       "qwen3",
       rope(R"("type":"linear","factor":0)"),
       "rope_scaling.factor",
       "above 0"},
      {"PartialRotary",
       "qwen3",
       R"("partial_rotary_factor":0.25)",
       "partial_rotary_factor",
       "only 1.0"},
      {"HighBelowLow",
       "llama",
       rope(R"("type":"llama3","factor":8,"low_freq_factor":4,)"
            R"("high_freq_factor":1)"),
       "rope_scaling.high_freq_factor",
       "above low_freq_factor"},
      {"NoExperts", "qwen3_moe", "", "num_experts", "is missing"},
      {"MoreThanAllExperts",
       "qwen3_moe",
       R"("num_experts":1)",
       "num_experts_per_tok",
       "found 2"},
      {"SparseStepZero",
       "qwen3_moe",
       R"("num_experts":4,"decoder_sparse_step":0)",
       "decoder_sparse_step",
       "found 0"},
      {"MlpOnlyLayerPastTheEnd",
       "qwen3_moe",
       R"("num_experts":4,"mlp_only_layers":[4])",
       "mlp_only_layers[0]",
       "found 4"},
      {"LayerTypesTooShort",
       "qwen3",
       R"("use_sliding_window":true,"layer_types":["full_attention"])",
       "layer_types",
       "found 1"},
      {"UnknownLayerType",
       "qwen3",
       R"("use_sliding_window":true,"layer_types":["full_attention","mamba",)"
       R"("full_attention","full_attention"])",
       "layer_types[1]",
       "mamba"},
      {"SevenBits",
       "qwen3",
       quantization(R"("bits":7,"group_size":64)"),
       "quantization.bits",
       "found affine, 7 bits, groups of 64"},
      {"GroupOf48",
       "qwen3",
       quantization(R"("bits":4,"group_size":48)"),
       "quantization.bits",
       "groups of 48"},
      {"UnknownMode",
       "qwen3",
       quantization(R"("mode":"q4_k")"),
       "quantization.mode",
       "found \"q4_k\""},
      {"ModuleIsNumber",
       "qwen3",
       quantization(R"("lm_head":4)"),
       "quantization.lm_head",
       "an object, true or false"},
      {"ModuleBits",
       "qwen3",
       quantization(R"("lm_head":{"bits":"four"})"),
       "quantization.lm_head.bits",
       "an integer"},
      {"ForeignMethod",
       "qwen3",
       R"("quantization_config":{"quant_method":"hqq","bits":4})",
       "quantization_config.quant_method",
       "\"hqq\" weights cannot be read"},
  };
}

INSTANTIATE_TEST_SUITE_P(
    ModelArgs,
    MalformedConfig,
    ::testing::ValuesIn(malformed_configs()),
    [](const ::testing::TestParamInfo<Malformed>& each) {
      return each.param.name;
    });

TEST(ModelArgs, ReadsADirectory) {
  const testing::TempDir dir;
  EXPECT_THROW(get_model_args(dir.path()), FileError);
  dir.write("config.json", config_text("qwen3"));
  EXPECT_EQ(get_model_args(dir.path()).model_type, "qwen3");
  EXPECT_THROW(get_model_args(dir.path() / "config.json"), FileError);
}

TEST(GenerationConfig, OverridesTheConfigsEndIds) {
  const testing::TempDir dir;
  const auto args = parse("qwen3", R"("eos_token_id":7)");
  EXPECT_THAT(
      load_generation_config(dir.path(), args).eos_token_ids, ElementsAre(7u));
  dir.write(
      "generation_config.json",
      R"({"eos_token_id":[3,4],"do_sample":true,"temperature":0.6,)"
      R"("top_k":20,"top_p":0.95})");
  const auto config = load_generation_config(dir.path(), args);
  EXPECT_THAT(config.eos_token_ids, ElementsAre(3u, 4u));
  EXPECT_TRUE(config.do_sample);
  EXPECT_EQ(config.temperature, 0.6f);
  EXPECT_EQ(config.top_k, 20);
  EXPECT_EQ(config.top_p, 0.95f);
  EXPECT_FALSE(config.min_p);
  dir.write("generation_config.json", R"({"top_p":1.5})");
  EXPECT_THROW(load_generation_config(dir.path(), args), FieldError);
}

} // namespace
} // namespace qwen3_mlx
