// SPDX-License-Identifier: MIT
// Filters and penalties leave what mlx-lm's leave: the goldens are written by
// scripts/make_sampling_goldens.py.
#include "qwen3_mlx/sampling.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include <nlohmann/json.hpp>

namespace qwen3_mlx {
namespace {

using Json = nlohmann::json;

// Sums over 40 float32 numbers in another order.
constexpr double tolerance = 2e-6;

const Json& goldens() {
  static const Json json = Json::parse(std::ifstream(
      std::filesystem::path(QWEN3_MLX_TEST_DATA) / "sampling/mlx_lm.json"));
  return json;
}

SamplingParams params_of(const Json& json) {
  SamplingParams params;
  params.temperature = json.value("temperature", params.temperature);
  params.top_p = json.value("top_p", params.top_p);
  params.min_p = json.value("min_p", params.min_p);
  params.min_tokens_to_keep =
      json.value("min_tokens_to_keep", params.min_tokens_to_keep);
  params.top_k = json.value("top_k", params.top_k);
  params.xtc_probability =
      json.value("xtc_probability", params.xtc_probability);
  params.xtc_threshold = json.value("xtc_threshold", params.xtc_threshold);
  params.xtc_special_tokens =
      json.value("xtc_special_tokens", params.xtc_special_tokens);
  params.repetition_penalty =
      json.value("repetition_penalty", params.repetition_penalty);
  params.presence_penalty =
      json.value("presence_penalty", params.presence_penalty);
  params.frequency_penalty =
      json.value("frequency_penalty", params.frequency_penalty);
  params.penalty_window = json.value("penalty_window", params.penalty_window);
  for (const auto& pair : json.value("logit_bias", Json::array())) {
    params.logit_bias.emplace_back(pair[0], pair[1]);
  }
  return params;
}

mx::array row(const Json& numbers) {
  const auto values = numbers.get<std::vector<float>>();
  return mx::array(
      values.data(), mx::Shape{1, static_cast<int>(values.size())});
}

std::vector<float> values(mx::array x) {
  x = mx::contiguous(mx::astype(x, mx::float32));
  x.eval();
  return {x.data<float>(), x.data<float>() + x.size()};
}

// The filters as free functions, in the order of the header.
mx::array filtered(mx::array log_probs, const SamplingParams& params) {
  if (params.top_p > 0 && params.top_p < 1) {
    log_probs = apply_top_p(log_probs, params.top_p);
  }
  if (params.min_p > 0) {
    log_probs = apply_min_p(log_probs, params.min_p, params.min_tokens_to_keep);
  }
  if (params.xtc_probability > 0) {
    log_probs = apply_xtc(
        log_probs,
        mx::zeros({1}),
        params.xtc_probability,
        params.xtc_threshold,
        params.xtc_special_tokens);
  }
  if (params.top_k > 0) {
    log_probs = apply_top_k(log_probs, params.top_k);
  }
  return log_probs;
}

TEST(MlxLmParity, EachFilterKeepsTheSameTokensAndProbabilities) {
  for (const auto& golden : goldens().at("filters")) {
    const auto params = params_of(golden.at("params"));
    const auto log_probs =
        filtered(log_softmax(row(golden.at("logits"))), params);
    const auto probs = values(mx::softmax(
        mx::multiply(log_probs, mx::array(1.0F / params.temperature)), -1));
    const auto expected = golden.at("probs").get<std::vector<float>>();
    for (std::size_t id = 0; id < expected.size(); ++id) {
      EXPECT_EQ(probs[id] > 0, expected[id] > 0)
          << golden.at("params") << " id " << id;
      EXPECT_NEAR(probs[id], expected[id], tolerance)
          << golden.at("params") << " id " << id;
    }
  }
}

// The sampler may take another way (over the top k only). Evenly spaced draws
// meet each token as often as its probability says.
TEST(MlxLmParity, TheSamplerDrawsFromTheSameDistribution) {
  constexpr int num_draws = 4096;
  const auto token_draws = mx::divide(
      mx::add(mx::arange(0, num_draws, 1, mx::float32), mx::array(0.5F)),
      mx::array(static_cast<float>(num_draws)));
  const auto draws =
      mx::stack({token_draws, mx::zeros({num_draws})}, /* axis */ 1);
  for (const auto& golden : goldens().at("filters")) {
    const auto expected = golden.at("probs").get<std::vector<float>>();
    const int vocab_size = static_cast<int>(expected.size());
    const Sampler sampler(params_of(golden.at("params")), vocab_size);
    auto ids = sampler(
        mx::broadcast_to(row(golden.at("logits")), {num_draws, vocab_size}),
        draws,
        mx::zeros({num_draws, 0}, mx::int32));
    ASSERT_EQ(ids.shape(), mx::Shape{num_draws});
    ASSERT_EQ(ids.dtype(), mx::uint32);
    ids.eval();
    std::vector<int> counts(expected.size());
    for (int idx = 0; idx < num_draws; ++idx) {
      ++counts.at(ids.data<std::uint32_t>()[idx]);
    }
    for (std::size_t id = 0; id < expected.size(); ++id) {
      EXPECT_NEAR(
          static_cast<double>(counts[id]) / num_draws,
          expected[id],
          1.01 / num_draws)
          << golden.at("params") << " id " << id;
      if (expected[id] == 0) {
        EXPECT_EQ(counts[id], 0) << golden.at("params") << " id " << id;
      }
    }
  }
}

TEST(MlxLmParity, PenaltiesGiveTheSameLogits) {
  for (const auto& golden : goldens().at("penalties")) {
    const auto params = params_of(golden.at("params"));
    auto logits = row(golden.at("logits"));
    for (const auto& [id, value] : params.logit_bias) {
      const mx::array place({static_cast<int>(id)}, {1, 1}, mx::int32);
      logits = mx::scatter_add_axis(
          logits, place, mx::full({1, 1}, value), /* axis */ 1);
    }
    const auto history = golden.at("history").get<std::vector<int>>();
    const auto width = static_cast<std::size_t>(params.penalty_window);
    std::vector<int> window(width, -1);
    const auto num = std::min(width, history.size());
    std::copy(history.end() - num, history.end(), window.end() - num);
    const auto penalized = values(apply_penalties(
        logits,
        mx::array(window.data(), mx::Shape{1, params.penalty_window}),
        params.repetition_penalty,
        params.presence_penalty,
        params.frequency_penalty));
    const auto expected = golden.at("penalized").get<std::vector<float>>();
    for (std::size_t id = 0; id < expected.size(); ++id) {
      EXPECT_NEAR(penalized[id], expected[id], 4e-6)
          << golden.at("params") << " id " << id;
    }
  }
}

// A whole sequence: bias and penalties over prompt and generated tokens.
TEST(MlxLmParity, ASequencePenalizesPromptAndGeneratedTokens) {
  for (const auto& golden : goldens().at("penalties")) {
    auto params = params_of(golden.at("params"));
    const auto history = golden.at("history").get<std::vector<std::uint32_t>>();
    const auto expected = golden.at("penalized").get<std::vector<float>>();
    const int vocab_size = static_cast<int>(expected.size());
    const auto best = static_cast<std::uint32_t>(
        std::max_element(expected.begin(), expected.end()) - expected.begin());

    // All in the prompt.
    SequenceSampler whole(params, vocab_size, history);
    EXPECT_EQ(whole(row(golden.at("logits"))).item<std::uint32_t>(), best);

    // All but the first generated: logits with one peak make each of them.
    SequenceSampler grown(params, vocab_size, std::span(history).subspan(0, 1));
    for (std::size_t idx = 1; idx < history.size(); ++idx) {
      std::vector<float> peak(expected.size(), 0.0F);
      peak[history[idx]] = 1e4F;
      ASSERT_EQ(
          grown(mx::array(peak.data(), mx::Shape{1, vocab_size}))
              .item<std::uint32_t>(),
          history[idx]);
    }
    EXPECT_EQ(grown(row(golden.at("logits"))).item<std::uint32_t>(), best);
  }
}

} // namespace
} // namespace qwen3_mlx
