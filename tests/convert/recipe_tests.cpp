// SPDX-License-Identifier: MIT
#include "convert/recipe.h"

#include <gtest/gtest.h>

#include "qwen3_mlx/error.h"

namespace qwen3_mlx {
namespace {

constexpr QuantFormat four{QuantMode::affine, 4, 64};
constexpr QuantFormat six{QuantMode::affine, 6, 64};
constexpr QuantFormat plain{};

ModelArgs args_of(const std::string& model_type, int n_layers = 16) {
  ModelArgs args;
  args.model_type = model_type;
  args.num_hidden_layers = n_layers;
  return args;
}

TEST(Pattern, StarsStandForAnyCharacters) {
  EXPECT_TRUE(matches_pattern("lm_head", "lm_head"));
  EXPECT_FALSE(matches_pattern("lm_head", "lm_head2"));
  EXPECT_TRUE(matches_pattern("*", ""));
  EXPECT_TRUE(matches_pattern("*.down_proj", "model.layers.3.mlp.down_proj"));
  EXPECT_TRUE(matches_pattern("model.*.mlp.*", "model.layers.3.mlp.up_proj"));
  EXPECT_FALSE(matches_pattern("model.*.mlp", "model.layers.3.mlp.up_proj"));
  EXPECT_TRUE(matches_pattern("*a*b*", "xxabab"));
  EXPECT_FALSE(matches_pattern("*a*c*b", "abab"));
  EXPECT_FALSE(matches_pattern("", "x"));
}

TEST(Rules, OneThatMatchesNothingIsRefusedWithTheNames) {
  const std::vector<std::string> modules = {
      "lm_head", "model.layers.0.mlp.up_proj"};
  check_rules({{"*.up_proj", four}, {"lm_head", plain}}, modules);
  try {
    check_rules({{"*", four}, {"*.up", six}}, modules);
    FAIL();
  } catch (const InvalidArgument& error) {
    const std::string message = error.what();
    EXPECT_NE(message.find("\"*.up\""), message.npos);
    EXPECT_NE(
        message.find(": lm_head, model.layers.*.mlp.up_proj"), message.npos)
        << message;
  }
  EXPECT_THROW(check_rules({{"*", four}}, {}), InvalidArgument);
}

TEST(Rules, EachKindOfMatrixIsNamedOnce) {
  try {
    check_rules(
        {{"x", four}},
        {"model.layers.0.mlp.experts.12.up_proj",
         "model.layers.10.mlp.experts.3.up_proj",
         "model.layers.10.self_attn.q2_proj"});
    FAIL();
  } catch (const InvalidArgument& error) {
    const std::string message = error.what();
    EXPECT_TRUE(
        message.ends_with(": model.layers.*.mlp.experts.*.up_proj, "
                          "model.layers.*.self_attn.q2_proj"))
        << message;
  }
}

TEST(Rules, AHeadThatIsTiedIsToldApart) {
  const std::vector<std::string> modules = {"model.embed_tokens"};
  check_rules({{"*e*", plain}}, modules, /* is_head_tied */ true);
  try {
    check_rules({{"lm_head", plain}}, modules, /* is_head_tied */ true);
    FAIL();
  } catch (const InvalidArgument& error) {
    EXPECT_NE(
        std::string(error.what()).find("tied to model.embed_tokens"),
        std::string::npos);
  }
}

TEST(Recipe, RowsThatAreNoWholeGroupsStayPlain) {
  const auto args = args_of("qwen3");
  const ConvertOptions options{.quantize = four};
  const Recipe recipe(options, args);
  EXPECT_EQ(recipe.format("lm_head", 128), four);
  EXPECT_EQ(recipe.format("lm_head", 96), plain);
}

TEST(Recipe, RoutersOfQwen3MoeGetEightBits) {
  const ConvertOptions options{.quantize = four};
  const auto moe = args_of("qwen3_moe");
  const auto older = args_of("qwen2_moe");
  const std::string router = "model.layers.0.mlp.gate";
  EXPECT_EQ(
      Recipe(options, moe).format(router, 64),
      (QuantFormat{QuantMode::affine, 8, 64}));
  EXPECT_EQ(Recipe(options, older).format(router, 64), four);
}

TEST(Recipe, MixedRecipesSpendBitsWhereMlxLmDoes) {
  const auto args = args_of("qwen3", 16);
  const ConvertOptions options{
      .quantize = four, .recipe = MixedRecipe::mixed_4_6};
  const Recipe recipe(options, args);
  const auto at = [&](int layer, const std::string& name) {
    return recipe.format(
        "model.layers." + std::to_string(layer) + "." + name, 64);
  };
  for (int layer = 0; layer < 16; ++layer) {
    const bool more = layer < 2 || layer >= 14 || (layer - 2) % 3 == 2;
    EXPECT_EQ(at(layer, "mlp.down_proj"), more ? six : four) << layer;
    EXPECT_EQ(at(layer, "self_attn.v_proj"), more ? six : four) << layer;
    EXPECT_EQ(at(layer, "self_attn.q_proj"), four) << layer;
  }
  EXPECT_EQ(recipe.format("lm_head", 64), six);
  EXPECT_EQ(recipe.format("model.embed_tokens", 64), four);
}

TEST(Recipe, TheLastRuleThatMatchesDecides) {
  const auto args = args_of("qwen3_moe");
  const QuantFormat eight{QuantMode::affine, 8, 32};
  const ConvertOptions options{
      .quantize = four, .rules = {{"*", six}, {"*.gate", eight}, {"lm_*", {}}}};
  const Recipe recipe(options, args);
  EXPECT_EQ(recipe.format("model.layers.0.mlp.gate", 64), eight);
  EXPECT_EQ(recipe.format("model.layers.0.mlp.up_proj", 64), six);
  EXPECT_EQ(recipe.format("lm_head", 64), plain);
}

TEST(Recipe, OptionsThatExcludeEachOtherAreRefused) {
  const auto args = args_of("qwen3");
  const auto refused = [&](const ConvertOptions& options) {
    EXPECT_THROW(Recipe(options, args), InvalidArgument);
  };
  refused({.quantize = four, .dequantize = true});
  refused({.quantize = QuantFormat{}});
  refused({.quantize = QuantFormat{QuantMode::affine, 7, 64}});
  refused({.quantize = QuantFormat{QuantMode::affine, 4, 16}});
  refused({.quantize = QuantFormat{QuantMode::mxfp4, 4, 64}});
  refused({.recipe = MixedRecipe::mixed_3_6});
  refused(
      {.quantize = QuantFormat{QuantMode::mxfp4, 4, 32},
       .recipe = MixedRecipe::mixed_3_6});
  refused({.rules = {{"*", four}}});
  refused(
      {.quantize = four,
       .rules = {{"*", QuantFormat{QuantMode::nvfp4, 8, 16}}}});
}

} // namespace
} // namespace qwen3_mlx
