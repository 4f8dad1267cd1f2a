// SPDX-License-Identifier: MIT
// Whole conversions of tiny checkpoints; their bytes against mlx-lm's are
// compared by scripts/parity_convert.py.
#include "qwen3_mlx/convert.h"

#include <fstream>
#include <iterator>
#include <limits>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "formats/safetensors.h"
#include "qwen3_mlx/error.h"
#include "qwen3_mlx/generate.h"
#include "testing/temp_dir.h"
#include "testing/tiny_checkpoint.h"
#include "testing/tiny_gguf.h"
#include "testing/tiny_model.h"

namespace qwen3_mlx {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;
using ::testing::HasSubstr;
using testing::TempDir;

constexpr QuantFormat four{QuantMode::affine, 4, 32};
constexpr QuantFormat eight{QuantMode::affine, 8, 32};

class Convert : public ::testing::Test {
 protected:
  testing::TinyCase write(const std::string& name = "qwen3-default") {
    auto golden = testing::load_tiny_case(testing::parity_goldens(), name);
    fs::create_directories(source());
    testing::write_tiny_checkpoint(golden, source());
    return golden;
  }

  fs::path source() const {
    return folder_.path() / "source";
  }
  fs::path target(const std::string& name = "target") const {
    return folder_.path() / name;
  }
  Json config(const std::string& name = "target") const {
    std::ifstream file(target(name) / "config.json");
    return Json::parse(file);
  }

  /// The 64 greedy tokens of what lies in `path`.
  static std::vector<std::uint32_t>
  greedy(const fs::path& path, const testing::TinyCase& golden) {
    const auto model = load_model(path, testing::stock_float32());
    std::vector<KVCache> cache;
    std::vector<std::uint32_t> ids;
    for (const auto id : Generate(
             model,
             cache,
             std::span<const std::uint32_t>(golden.prompt_ids),
             SamplingParams{.temperature = 0.0f})) {
      ids.push_back(id);
      if (ids.size() == golden.greedy_ids.size()) {
        break;
      }
    }
    return ids;
  }

  TempDir folder_;
};

TEST_F(Convert, PlainCopiesAndShardsGiveTheSameTokens) {
  const auto golden = write();
  convert_checkpoint(source(), target(), {.dtype = "float32"});
  EXPECT_EQ(greedy(target(), golden), golden.greedy_ids);
  const auto result = convert_checkpoint(
      source(),
      target("shards"),
      {.dtype = "float32", .n_threads = 3, .max_shard_bytes = 20'000});
  EXPECT_GT(result.n_shards, 3);
  EXPECT_EQ(greedy(target("shards"), golden), golden.greedy_ids);
  auto count = std::to_string(result.n_shards);
  count.insert(0, 5 - count.size(), '0');
  EXPECT_TRUE(fs::exists(
      target("shards") / ("model-00001-of-" + count + ".safetensors")));
}

TEST_F(Convert, EightBitsKeepMostTokensAndConfigSaysHow) {
  const auto golden = write();
  const auto result =
      convert_checkpoint(source(), target(), {.quantize = eight});
  const auto ids = greedy(target(), golden);
  EXPECT_EQ(ids.size(), golden.greedy_ids.size());
  const auto section = config()["quantization"];
  EXPECT_EQ(section, config()["quantization_config"]);
  EXPECT_EQ(section["bits"], 8);
  EXPECT_EQ(section["group_size"], 32);
  EXPECT_EQ(section["mode"], "affine");
  EXPECT_GT(result.bits_per_weight(), 8.0);
  EXPECT_LT(result.bits_per_weight(), 11.0);
}

TEST_F(Convert, ModulesWithTheirOwnFormatAreListed) {
  write();
  convert_checkpoint(
      source(),
      target(),
      {.quantize = four,
       .rules = {{"*.down_proj", eight}, {"model.embed_tokens", {}}}});
  const auto section = config()["quantization"];
  EXPECT_EQ(section["model.layers.0.mlp.down_proj"]["bits"], 8);
  EXPECT_FALSE(section.contains("model.layers.0.mlp.up_proj"));
  const SafetensorsFile file(target() / "model.safetensors");
  EXPECT_EQ(file.find("model.embed_tokens.scales"), nullptr);
  EXPECT_NE(file.find("model.layers.0.mlp.up_proj.scales"), nullptr);
  load_model(target(), testing::stock_float32());
}

TEST_F(Convert, QuantizedCopiesStayAsTheyAreAndDequantizeUndoesThem) {
  const auto golden = write();
  const auto plain = convert_checkpoint(source(), target("plain"));
  const auto packed = convert_checkpoint(
      source(), target(), {.quantize = eight, .dtype = "float32"});
  const auto copied = convert_checkpoint(target(), target("copy"));
  EXPECT_EQ(packed.n_parameters, plain.n_parameters);
  EXPECT_EQ(copied.n_parameters, plain.n_parameters);
  EXPECT_EQ(copied.n_bytes, packed.n_bytes);
  std::ifstream index(target("copy") / "model.safetensors.index.json");
  EXPECT_EQ(
      Json::parse(index)["metadata"]["total_parameters"], plain.n_parameters);
  EXPECT_EQ(config("copy")["quantization"], config()["quantization"]);
  EXPECT_EQ(greedy(target("copy"), golden), greedy(target(), golden));
  convert_checkpoint(target(), target("floats"), {.dequantize = true});
  EXPECT_FALSE(config("floats").contains("quantization"));
  EXPECT_FALSE(config("floats").contains("quantization_config"));
  EXPECT_EQ(greedy(target("floats"), golden), greedy(target(), golden));
}

TEST_F(Convert, ExpertsAreStacked) {
  const auto golden = write("qwen3_moe-default");
  convert_checkpoint(source(), target(), {.dtype = "float32"});
  EXPECT_EQ(greedy(target(), golden), golden.greedy_ids);
  const SafetensorsFile file(target() / "model.safetensors");
  const auto* experts =
      file.find("model.layers.0.mlp.switch_mlp.up_proj.weight");
  ASSERT_NE(experts, nullptr);
  EXPECT_EQ(experts->shape.size(), 3u);
}

TEST_F(Convert, GgufFilesBecomeDirectories) {
  const auto golden = testing::load_tiny_case(
      testing::parity_goldens(), "llama-bias-head-dim-32");
  const auto file = folder_.path() / "model.gguf";
  testing::write_tiny_gguf(golden, file);
  convert_checkpoint(file, target(), {.dtype = "float32"});
  EXPECT_EQ(greedy(target(), golden), golden.greedy_ids);
}

TEST_F(Convert, SideFilesAreCarriedOver) {
  write();
  for (const auto* name :
       {"tokenizer.json", "chat_template.jinja", "merges.txt", "LICENSE"}) {
    folder_.write(fs::path("source") / name, name);
  }
  folder_.write("source/model.py", "no");
  folder_.write("secret.json", "no");
  fs::create_symlink("../secret.json", source() / "link.json");
  EXPECT_THROW(convert_checkpoint(source(), target()), FileError);
  fs::remove(source() / "link.json");
  convert_checkpoint(source(), target());
  EXPECT_TRUE(fs::exists(target() / "tokenizer.json"));
  EXPECT_TRUE(fs::exists(target() / "chat_template.jinja"));
  EXPECT_TRUE(fs::exists(target() / "merges.txt"));
  EXPECT_TRUE(fs::exists(target() / "LICENSE"));
  EXPECT_FALSE(fs::exists(target() / "model.py"));
}

TEST_F(Convert, TheTargetIsNeverTheSourceNorReplacedUnasked) {
  write();
  EXPECT_THROW(
      convert_checkpoint(source(), source(), {.force = true}), InvalidArgument);
  convert_checkpoint(source(), target());
  EXPECT_THROW(convert_checkpoint(source(), target()), FileError);
  convert_checkpoint(source(), target(), {.quantize = four, .force = true});
  EXPECT_EQ(config()["quantization"]["bits"], 4);
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_.path()), {}), 2);
}

TEST_F(Convert, ATargetThatHoldsTheSourceIsRefused) {
  write();
  folder_.write("thesis.txt", "mine");
  fs::create_directory_symlink(folder_.path(), source() / "up");
  const auto refused = [&](const fs::path& from, const fs::path& to) {
    try {
      convert_checkpoint(from, to, {.force = true});
      ADD_FAILURE() << to << " was written";
    } catch (const InvalidArgument& error) {
      EXPECT_THAT(error.what(), HasSubstr("choose another target"));
    }
  };
  refused(source(), folder_.path());
  refused(source(), source() / "up");
  refused(source(), source() / "..");
  // A checkpoint whose file lies elsewhere, as links have it.
  const auto linked = folder_.path() / "hub/models--a--b";
  fs::create_directories(linked / "blobs");
  fs::create_directories(linked / "snapshots/main");
  fs::rename(source() / "model.safetensors", linked / "blobs/0123");
  fs::rename(source() / "config.json", linked / "snapshots/main/config.json");
  fs::create_symlink(
      "../../blobs/0123", linked / "snapshots/main/model.safetensors");
  refused(linked / "snapshots/main", linked / "blobs");
  EXPECT_TRUE(fs::exists(folder_.path() / "thesis.txt"));
  EXPECT_TRUE(fs::exists(linked / "blobs/0123"));
  convert_checkpoint(linked / "snapshots/main", target());
}

TEST_F(Convert, AGgufFileInsideTheTargetStays) {
  const auto golden = testing::load_tiny_case(
      testing::parity_goldens(), "llama-bias-head-dim-32");
  fs::create_directory(target());
  const auto file = target() / "model.gguf";
  testing::write_tiny_gguf(golden, file);
  EXPECT_THROW(
      convert_checkpoint(file, target(), {.force = true}), InvalidArgument);
  EXPECT_TRUE(fs::exists(file));
}

TEST_F(Convert, NumbersThatAreNotFiniteAreNamed) {
  const std::string name = "model.layers.1.mlp.up_proj.weight";
  write();
  std::uint64_t offset = 0;
  {
    const SafetensorsFile file(source() / "model.safetensors");
    offset = file.find(name)->offset;
  }
  std::fstream out(
      source() / "model.safetensors",
      std::ios::in | std::ios::out | std::ios::binary);
  out.seekp(static_cast<std::streamoff>(offset) + 8);
  const float bad = std::numeric_limits<float>::infinity();
  out.write(reinterpret_cast<const char*>(&bad), sizeof(bad));
  out.close();
  try {
    convert_checkpoint(source(), target(), {.quantize = four});
    FAIL();
  } catch (const TensorError& error) {
    EXPECT_EQ(error.tensor(), name);
    EXPECT_THAT(error.what(), HasSubstr("in row 0;"));
  }
  EXPECT_FALSE(fs::exists(target()));
}

TEST_F(Convert, ContradictoryCheckpointsAreRefused) {
  write();
  convert_checkpoint(source(), target(), {.quantize = four});
  const auto edit = [&](const std::string& what, const Json& value) {
    auto changed = config();
    changed["quantization"][what] = value;
    std::ofstream(target() / "config.json") << changed.dump();
  };
  edit("bits", 8);
  EXPECT_THROW(
      convert_checkpoint(target(), target("x"), {.dequantize = true}),
      TensorError);
  edit("bits", 4);
  edit("group_size", 64);
  EXPECT_THROW(
      convert_checkpoint(target(), target("x"), {.dequantize = true}),
      TensorError);
  edit("group_size", 32);
  edit("mode", "mxfp4");
  EXPECT_THROW(
      convert_checkpoint(target(), target("x"), {.dequantize = true}),
      TensorError);
  edit("mode", "affine");
  edit("model.layers.0.mlp.up_proj", false);
  EXPECT_THROW(
      convert_checkpoint(target(), target("x"), {.dequantize = true}),
      TensorError);
  EXPECT_THROW(
      convert_checkpoint(source(), target("x"), {.dtype = "int8"}),
      InvalidArgument);
  EXPECT_THROW(
      convert_checkpoint(
          source(),
          target("x"),
          {.quantize = four, .rules = {{"nothing.matches", eight}}}),
      InvalidArgument);
  EXPECT_THROW(
      convert_checkpoint(
          source(),
          target("x"),
          {.quantize = QuantFormat{QuantMode::affine, 0, 64}}),
      InvalidArgument);
  EXPECT_THROW(
      convert_checkpoint(folder_.path() / "nothing", target("x")), FileError);
  EXPECT_FALSE(fs::exists(target("x")));
}

} // namespace
} // namespace qwen3_mlx
