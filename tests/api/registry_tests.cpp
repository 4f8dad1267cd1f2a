// SPDX-License-Identifier: MIT
#include "models/registry.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <set>
#include <string>

#include "qwen3_mlx/error.h"
#include "testing/temp_dir.h"

namespace qwen3_mlx {
namespace {

using ::testing::HasSubstr;

// Files of src/models that are no architecture.
const std::set<std::string> other_files = {"model", "registry"};

TEST(Registry, EveryModelFileHasARowAndEveryRowAFile) {
  std::set<std::string> files;
  for (const auto& entry :
       std::filesystem::directory_iterator(QWEN3_MLX_MODELS_DIR)) {
    const auto stem = entry.path().stem().string();
    if (entry.path().extension() == ".cpp" && !other_files.contains(stem)) {
      files.insert(stem);
    }
  }
  std::set<std::string> rows;
  for (const auto& architecture : architectures()) {
    rows.insert(std::string(architecture.model_type));
    EXPECT_EQ(
        find_architecture(architecture.model_type).make_model,
        architecture.make_model);
  }
  EXPECT_EQ(files, rows);
}

TEST(Registry, UnknownTypeListsTheKnownOnes) {
  const testing::TempDir dir;
  dir.write("config.json", R"({
    "model_type": "gpt9", "hidden_size": 8, "num_hidden_layers": 1,
    "intermediate_size": 8, "num_attention_heads": 1, "vocab_size": 8})");
  try {
    load_model(dir.path());
    FAIL();
  } catch (const FieldError& error) {
    EXPECT_EQ(error.field(), "model_type");
    EXPECT_THAT(error.what(), HasSubstr("config.json"));
    EXPECT_THAT(error.what(), HasSubstr("gpt9"));
    EXPECT_THAT(error.what(), HasSubstr("qwen3_moe"));
  }
}

} // namespace
} // namespace qwen3_mlx
