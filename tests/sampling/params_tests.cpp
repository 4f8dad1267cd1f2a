// SPDX-License-Identifier: MIT
#include "qwen3_mlx/sampling.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <limits>
#include <string>

#include "qwen3_mlx/error.h"

namespace qwen3_mlx {
namespace {

constexpr int vocab_size = 100;
const float nan = std::numeric_limits<float>::quiet_NaN();
const float infinity = std::numeric_limits<float>::infinity();

TEST(SamplingParams, DefaultsAreValidAndGreedy) {
  EXPECT_NO_THROW(validate({}, vocab_size));
  EXPECT_TRUE(Sampler({}, vocab_size).is_greedy());
  EXPECT_FALSE(SamplingParams{}.has_penalties());
}

TEST(SamplingParams, RefusesWhatIsOutOfRangeByName) {
  struct Case {
    std::string name;
    std::function<void(SamplingParams&)> set;
  };
  const std::vector<Case> cases = {
      {"temperature", [](auto& p) { p.temperature = -0.1F; }},
      {"temperature", [](auto& p) { p.temperature = nan; }},
      {"temperature", [](auto& p) { p.temperature = infinity; }},
      {"top_p", [](auto& p) { p.top_p = 1.5F; }},
      {"top_p", [](auto& p) { p.top_p = nan; }},
      {"min_p", [](auto& p) { p.min_p = -1; }},
      {"min_tokens_to_keep", [](auto& p) { p.min_tokens_to_keep = 0; }},
      {"top_k", [](auto& p) { p.top_k = -1; }},
      {"xtc_probability", [](auto& p) { p.xtc_probability = 2; }},
      {"xtc_threshold", [](auto& p) { p.xtc_threshold = 0.6F; }},
      {"xtc_special_tokens", [](auto& p) { p.xtc_special_tokens = {100}; }},
      {"repetition_penalty", [](auto& p) { p.repetition_penalty = -1; }},
      {"presence_penalty", [](auto& p) { p.presence_penalty = infinity; }},
      {"frequency_penalty", [](auto& p) { p.frequency_penalty = nan; }},
      {"penalty_window", [](auto& p) { p.penalty_window = -1; }},
      {"penalty_window", [](auto& p) { p.penalty_window = 1 << 20; }},
      {"logit_bias",
       [](auto& p) {
         p.logit_bias = {{100, 1.0F}};
       }},
      {"logit_bias",
       [](auto& p) {
         p.logit_bias = {{1, nan}};
       }},
  };
  for (const auto& [name, set] : cases) {
    SamplingParams params;
    set(params);
    try {
      validate(params, vocab_size);
      ADD_FAILURE() << name << " was accepted";
    } catch (const InvalidArgument& error) {
      EXPECT_THAT(error.what(), ::testing::StartsWith(name + ": expected"));
    }
  }
}

TEST(SamplingParams, ARepetitionPenaltyOfZeroOrOneIsOff) {
  SamplingParams params;
  params.repetition_penalty = 0;
  EXPECT_FALSE(params.has_penalties());
  params.repetition_penalty = 1.1F;
  EXPECT_TRUE(params.has_penalties());
  params.penalty_window = 0;
  EXPECT_FALSE(params.has_penalties());
}

TEST(Sampler, RefusesLogitsOfAnotherVocabulary) {
  const Sampler sampler({}, vocab_size);
  const auto draws = mx::zeros({1, 2});
  const auto window = mx::zeros({1, 0}, mx::int32);
  EXPECT_THROW(sampler(mx::zeros({1, 99}), draws, window), InvalidArgument);
  EXPECT_THROW(sampler(mx::zeros({100}), draws, window), InvalidArgument);
}

} // namespace
} // namespace qwen3_mlx
