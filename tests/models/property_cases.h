// SPDX-License-Identifier: MIT
// What the property tests run over: every architecture, the rope types and
// windows that depend on the position, and every kind of cache.
#pragma once

#include <string>
#include <tuple>
#include <vector>

#include <gtest/gtest.h>

#include "qwen3_mlx/kv_cache.h"
#include "testing/tiny_model.h"

namespace qwen3_mlx::testing {

struct CacheCase {
  std::string name;
  CacheOptions options;
};

/// All with heads of 32 or more: groups of a quantized cache lie inside a head.
inline std::vector<std::string> property_models() {
  return {
      "llama-bias-head-dim-32",
      "qwen2-mha-head-dim-64",
      "qwen2-sliding",
      "qwen2_moe-sliding",
      "qwen2_moe-sparse-step",
      "qwen3-default",
      "qwen3-yarn-fields",
      "qwen3_moe-default",
      "qwen3_moe-sliding"};
}

/// Prompts have 40 tokens: the rotating caches wrap.
inline std::vector<CacheCase> cache_cases() {
  const auto rotating = [](int max_kv_size, int keep) {
    CacheOptions options;
    options.max_kv_size = max_kv_size;
    options.keep = keep;
    return options;
  };
  const auto quantized = [](int bits, int start) {
    CacheOptions options;
    options.kv_bits = bits;
    options.kv_group_size = 32;
    options.quantized_kv_start = start;
    return options;
  };
  return {
      {"growing", {}},
      {"rotating", rotating(24, 4)},
      {"rotating_without_sinks", rotating(17, 0)},
      {"quantized_8", quantized(8, 0)},
      {"quantized_4_from_10", quantized(4, 10)},
  };
}

class ModelProperty : public ::testing::TestWithParam<
                          std::tuple<std::string, CacheCase, Kernels>> {
 protected:
  void SetUp() override {
    const auto& [name, cache_case, kernels] = GetParam();
    tiny_.emplace(load_tiny_model(name, float32_on_cpu(kernels)));
    options_ = cache_case.options;
    // Own kernels promise the same bits.
    tolerance_ = kernels == Kernels::native ? 0.0F : logit_tolerance;
  }

  const Model& model() const {
    return tiny_->model;
  }
  std::span<const std::uint32_t> prompt() const {
    return tiny_->golden.prompt_ids;
  }
  std::vector<KVCache> make_cache() const {
    return model().make_cache(options_);
  }

  /// Logits [L, V] of the prompt, fed in pieces of these lengths; the last one
  /// repeats.
  std::vector<float>
  logits_in_pieces(std::vector<KVCache>& cache, std::size_t piece) const {
    std::vector<float> all;
    for (std::size_t start = 0; start < prompt().size(); start += piece) {
      const auto ids =
          prompt().subspan(start, std::min(piece, prompt().size() - start));
      const auto part = values_of(model()(as_batch(ids), cache));
      all.insert(all.end(), part.begin(), part.end());
    }
    return all;
  }

  std::optional<TinyModel> tiny_;
  CacheOptions options_;
  float tolerance_ = logit_tolerance;
};

inline std::string property_name(
    const ::testing::TestParamInfo<std::tuple<std::string, CacheCase, Kernels>>&
        test) {
  return test_name(std::get<0>(test.param)) + "_" +
      std::get<1>(test.param).name +
      (std::get<2>(test.param) == Kernels::stock ? "_stock" : "_native");
}

} // namespace qwen3_mlx::testing
