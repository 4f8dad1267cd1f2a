// SPDX-License-Identifier: MIT
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "hub/cache.h"
#include "hub/hub_error.h"
#include "hub/pull.h"

namespace qwen3_mlx::hub {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

using Files = std::vector<std::string>;

TEST(NeededFiles, OfACheckpoint) {
  const Files files{
      ".gitattributes",
      "README.md",
      "config.json",
      "merges.txt",
      "model-00001-of-00002.safetensors",
      "model-00002-of-00002.safetensors",
      "model.safetensors.index.json",
      "onnx/model.safetensors",
      "original/consolidated.safetensors",
      "pytorch_model.bin",
      "tokenizer.json",
      "chat_template.jinja",
      "additional_chat_templates/rag.jinja",
      "consolidated.safetensors"};
  EXPECT_THAT(
      needed_files(files, {.repo = "a/b"}),
      ElementsAre(
          "config.json",
          "merges.txt",
          "model-00001-of-00002.safetensors",
          "model-00002-of-00002.safetensors",
          "model.safetensors.index.json",
          "tokenizer.json",
          "chat_template.jinja",
          "additional_chat_templates/rag.jinja"));
}

TEST(NeededFiles, WeightsUnderAnotherName) {
  EXPECT_THAT(
      needed_files({"config.json", "weights.safetensors"}, {.repo = "a/b"}),
      ElementsAre("config.json", "weights.safetensors"));
}

TEST(NeededFiles, OneFileAndItsParts) {
  const Files files{"x-00001-of-00002.gguf", "x-00002-of-00002.gguf", "y.gguf"};
  EXPECT_THAT(
      needed_files(files, {.repo = "a/b", .file = "y.gguf"}),
      ElementsAre("y.gguf"));
  EXPECT_THAT(
      needed_files(files, {.repo = "a/b", .file = "x-00002-of-00002.gguf"}),
      ElementsAre("x-00001-of-00002.gguf", "x-00002-of-00002.gguf"));
}

void expect_missing(
    const Files& files,
    const Reference& reference,
    const std::string& words) {
  try {
    needed_files(files, reference);
    FAIL();
  } catch (const HubError& error) {
    EXPECT_EQ(error.fault(), Fault::not_found);
    EXPECT_THAT(error.what(), HasSubstr(words));
  }
}

TEST(NeededFiles, SayWhatIsThereInstead) {
  expect_missing({"x.gguf"}, {.repo = "a/b"}, "a/b/x.gguf");
  expect_missing({"config.json"}, {.repo = "a/b"}, "no weights in safetensors");
  expect_missing({"x.gguf"}, {.repo = "a/b", .file = "y.gguf"}, "a/b/x.gguf");
  expect_missing(
      {"x-00001-of-00002.gguf"},
      {.repo = "a/b", .file = "x-00001-of-00002.gguf"},
      "x-00002-of-00002.gguf");
}

TEST(Parts, OnlyOfNamesThatCountThem) {
  EXPECT_EQ(parts_of("m-00001-of-00003.gguf").size(), 3U);
  EXPECT_EQ(parts_of("a/m-00001-of-00003.gguf")[2], "a/m-00003-of-00003.gguf");
  for (const std::string file :
       {"m.gguf",
        "m-00001-of-00000.gguf",
        "m-00001-of-0000x.gguf",
        "00001.gguf",
        "m_00001-of-00003.gguf",
        "m-00001-in-00003.gguf",
        ".gguf",
        ""}) {
    EXPECT_THAT(parts_of(file), ElementsAre(file));
  }
}

} // namespace
} // namespace qwen3_mlx::hub
