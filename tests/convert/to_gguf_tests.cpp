// SPDX-License-Identifier: MIT
// Refusals and clean-up; scripts/parity_to_gguf.py compares what is written.
#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/ggml_quantizer.h"
#include "convert/staged_directory.h"
#include "formats/gguf.h"
#include "qwen3_mlx/convert.h"
#include "qwen3_mlx/error.h"
#include "testing/temp_dir.h"
#include "testing/tiny_checkpoint.h"

namespace qwen3_mlx {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using testing::TempDir;

fs::path write_source(const TempDir& folder, const std::string& name) {
  const auto goldens = fs::path(QWEN3_MLX_TEST_DATA) / "parity";
  const auto golden = testing::load_tiny_case(goldens, name);
  const auto source = folder.path() / "source";
  fs::create_directory(source);
  testing::write_tiny_checkpoint(golden, source);
  return source;
}

std::ptrdiff_t n_entries(const fs::path& folder) {
  return std::distance(fs::directory_iterator(folder), {});
}

TEST(ToGguf, ATargetThatIsThereIsReplacedOnlyByForce) {
  const TempDir folder;
  const auto source = write_source(folder, "qwen2-default");
  const auto target = folder.write("out/model.gguf", "mine");
  try {
    convert_to_gguf(source, target);
    FAIL();
  } catch (const FileError& error) {
    EXPECT_THAT(error.what(), HasSubstr("--force"));
  }
  EXPECT_EQ(fs::file_size(target), 4u);
  convert_to_gguf(source, target, {.force = true});
  EXPECT_EQ(
      GgufFile(target).get_string("general.architecture"),
      std::optional<std::string>("qwen2"));
  EXPECT_EQ(n_entries(target.parent_path()), 1);
}

TEST(ToGguf, FilesOfTheSourceAreNoTarget) {
  const TempDir folder;
  const auto source = write_source(folder, "qwen2-default");
  fs::create_symlink("source/model.safetensors", folder.path() / "link.gguf");
  for (const auto& target :
       {source / "model.safetensors",
        source / "config.json",
        folder.path() / "link.gguf"}) {
    const auto size = fs::file_size(target);
    EXPECT_THROW(
        convert_to_gguf(source, target, {.force = true}), InvalidArgument)
        << target;
    EXPECT_EQ(fs::file_size(target), size) << target;
  }
  // An older result beside them is replaced.
  convert_to_gguf(source, source / "model.gguf");
  convert_to_gguf(source, source / "model.gguf", {.force = true});
}

TEST(ToGguf, AFolderIsNoTarget) {
  const TempDir folder;
  const auto source = write_source(folder, "qwen2-default");
  fs::create_directory(folder.path() / "out");
  EXPECT_THROW(
      convert_to_gguf(source, folder.path() / "out", {.force = true}),
      FileError);
}

TEST(ToGguf, WhatTheFormatCannotHoldIsNamedAndLeavesNothing) {
  for (const auto& [name, field] :
       std::vector<std::pair<std::string, std::string>>{
           {"qwen3-sliding", "sliding_window"},
           {"qwen3-dynamic", "rope_scaling.type"},
           {"qwen2_moe-sparse-step", "mlp_only_layers"},
       }) {
    const TempDir folder;
    const auto source = write_source(folder, name);
    try {
      convert_to_gguf(source, folder.path() / "out.gguf");
      ADD_FAILURE() << name << " was written";
    } catch (const FieldError& error) {
      EXPECT_EQ(error.field(), field) << name;
    }
    EXPECT_EQ(n_entries(folder.path()), 1) << name;
  }
}

TEST(GgmlQuantizer, BlocksAreThoseOfTheReference) {
  std::vector<float> row(32, 0.0f);
  row[3] = -4;
  row[20] = 2;
  std::array<std::byte, 20> out{};
  quantize_ggml_row(GgmlType::q4_0, row, out.data());
  // Scale -4 / -8 = 0.5, as a half 0x3800; -4 is 0, 0 is 8 and 2 is 12.
  EXPECT_EQ(out[0], std::byte{0x00});
  EXPECT_EQ(out[1], std::byte{0x38});
  EXPECT_EQ(out[2], std::byte{0x88});
  EXPECT_EQ(out[2 + 3], std::byte{0x80});
  EXPECT_EQ(out[2 + 4], std::byte{0xc8});
  std::fill(row.begin(), row.end(), 0.0f);
  quantize_ggml_row(GgmlType::q4_1, row, out.data());
  EXPECT_EQ(out[4], std::byte{0x00});
}

} // namespace
} // namespace qwen3_mlx
