// SPDX-License-Identifier: MIT
// Goldens of the default model, and where it lies.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <tuple>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "qwen3_mlx/generate.h"
#include "qwen3_mlx/model.h"

namespace qwen3_mlx::testing {

struct DefaultModelGolden {
  std::string prompt;
  std::vector<std::uint32_t> prompt_ids;
  std::vector<std::uint32_t> ids;
  bool stops = false;
};

/// tests/goldens/default_model/greedy.json, in its order.
inline std::vector<DefaultModelGolden> default_model_goldens() {
  const auto path = std::filesystem::path(QWEN3_MLX_TEST_DATA) /
      "default_model" / "greedy.json";
  const auto json = nlohmann::json::parse(std::ifstream(path));
  std::vector<DefaultModelGolden> goldens;
  for (const auto& row : json.at("prompts")) {
    goldens.push_back(
        {.prompt = row.at("prompt"),
         .prompt_ids = row.at("prompt_ids"),
         .ids = row.at("ids"),
         .stops = row.at("finish_reason") == "stop"});
  }
  return goldens;
}

/// $QWEN3_MLX_DEFAULT_MODEL, else where scripts/demo and scripts/test put it.
inline std::filesystem::path default_model_path() {
  const char* path = std::getenv("QWEN3_MLX_DEFAULT_MODEL");
  return path != nullptr ? std::filesystem::path(path)
                         : std::filesystem::path(QWEN3_MLX_MODELS) /
          "SmolLM2-135M-Instruct.Q4_1.gguf";
}

inline LoadOptions on_cpu(Kernels kernels) {
  LoadOptions options;
  options.device = mx::Device::cpu;
  options.kernels = kernels;
  options.dtype = mx::float32;
  options.exact = true;
  return options;
}

/// One prompt of the goldens, by its index.
class DefaultModel
    : public ::testing::TestWithParam<std::tuple<Kernels, std::size_t>> {
 protected:
  void SetUp() override {
    if (!std::filesystem::exists(default_model_path())) {
      GTEST_SKIP() << default_model_path()
                   << " is absent: ./scripts/demo fetches it";
    }
  }

  void expect_golden_tokens() const {
    const auto& [kernels, prompt_idx] = GetParam();
    const auto golden = default_model_goldens().at(prompt_idx);
    const auto model = load_model(default_model_path(), on_cpu(kernels));
    GenerateOptions options;
    options.max_tokens = max_tokens;
    auto cache = model.make_cache();
    Generate generate(model, cache, golden.prompt_ids, {}, options);
    std::vector<std::uint32_t> ids;
    for (const auto id : generate) {
      ids.push_back(id);
    }
    EXPECT_EQ(ids, golden.ids) << golden.prompt;
    EXPECT_EQ(generate.finish_reason() == FinishReason::stop, golden.stops)
        << golden.prompt;
  }

 private:
  static constexpr int max_tokens = 64; // of the script that made the goldens
};

inline std::string default_model_test_name(
    const ::testing::TestParamInfo<std::tuple<Kernels, std::size_t>>& test) {
  const auto& [kernels, prompt_idx] = test.param;
  return std::string(kernels == Kernels::stock ? "stock" : "native") +
      "_prompt_" + std::to_string(prompt_idx);
}

} // namespace qwen3_mlx::testing
