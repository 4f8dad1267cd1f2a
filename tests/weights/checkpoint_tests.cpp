// SPDX-License-Identifier: MIT
#include "weights/checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

#include "qwen3_mlx/error.h"
#include "testing/file_builders.h"
#include "testing/temp_dir.h"

namespace qwen3_mlx {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::safetensors_bytes;
using testing::TempDir;

constexpr const char* index_name = "model.safetensors.index.json";

/// A file of U8 tensors of one byte each.
std::string shard(const std::vector<std::string>& names) {
  std::string header = "{";
  for (std::size_t idx = 0; idx < names.size(); ++idx) {
    header += (idx > 0 ? "," : "") + ("\"" + names[idx] + "\"") +
        R"(:{"dtype":"U8","shape":[1],"data_offsets":[)" + std::to_string(idx) +
        "," + std::to_string(idx + 1) + "]}";
  }
  return safetensors_bytes(header + "}", names.size());
}

std::string index_of(const std::string& weight_map) {
  return R"({"metadata":{"total_size":2},"weight_map":)" + weight_map + "}";
}

TEST(Checkpoint, ReadsOneFileOrShards) {
  const TempDir dir;
  dir.write("model.safetensors", shard({"a", "b"}));
  EXPECT_EQ(Checkpoint::open(dir.path()).tensors().size(), 2u);
  dir.write("1.safetensors", shard({"a", "b"}));
  dir.write("2.safetensors", shard({"c"}));
  dir.write(
      index_name,
      index_of(
          R"({"a":"1.safetensors","b":"1.safetensors","c":"2.safetensors"})"));
  const auto checkpoint = Checkpoint::open(dir.path());
  EXPECT_EQ(checkpoint.tensors().size(), 3u);
  EXPECT_EQ(checkpoint.find("c")->path().filename(), "2.safetensors");
  EXPECT_EQ(checkpoint.find("d"), nullptr);
}

TEST(Checkpoint, NamesBecomeCanonical) {
  const TempDir dir;
  dir.write(
      "model.safetensors",
      shard(
          {"model.language_model.layers.0.a",
           "language_model.model.layers.1.a",
           "layers.2.a",
           "lm_head.weight",
           "model.layers.0.self_attn.rotary_emb.inv_freq",
           "model.layers.0.mlp.experts.1.up_proj.weight",
           "model.layers.0.mlp.experts.0.up_proj.weight"}));
  const auto checkpoint = Checkpoint::open(dir.path());
  std::vector<std::string> names;
  for (const auto& [name, tensor] : checkpoint.tensors()) {
    names.push_back(name);
  }
  EXPECT_THAT(
      names,
      ElementsAre(
          "lm_head.weight",
          "model.layers.0.a",
          "model.layers.0.mlp.switch_mlp.up_proj.weight",
          "model.layers.1.a",
          "model.layers.2.a"));
  const auto* experts =
      checkpoint.find("model.layers.0.mlp.switch_mlp.up_proj.weight");
  EXPECT_THAT(experts->shape, ElementsAre(2, 1));
  EXPECT_EQ(experts->pieces.size(), 2u);
  EXPECT_GT(experts->pieces[0].offset, experts->pieces[1].offset);
}

struct Malformed {
  std::string name;
  std::function<void(const TempDir&)> fill;
  std::string place;
  std::string reason;
};

std::ostream& operator<<(std::ostream& out, const Malformed& malformed) {
  return out << malformed.name;
}

class MalformedCheckpoint : public ::testing::TestWithParam<Malformed> {};

TEST_P(MalformedCheckpoint, IsRefusedByName) {
  const TempDir dir;
  fs::create_directory(dir.path() / "model");
  GetParam().fill(dir);
  try {
    Checkpoint::open(dir.path() / "model");
    FAIL() << "was accepted";
  } catch (const FileError& error) {
    EXPECT_THAT(error.path().string(), HasSubstr(dir.path().string()));
    EXPECT_THAT(error.what(), HasSubstr(GetParam().place));
    EXPECT_THAT(error.what(), HasSubstr(GetParam().reason));
  }
}

/// A directory with shards 1 (a, b) and 2 (c) and this index.
auto with_index(const std::string& text) {
  return [text](const TempDir& dir) {
    dir.write("model/1.safetensors", shard({"a", "b"}));
    dir.write("model/2.safetensors", shard({"c"}));
    dir.write("outside.safetensors", shard({"secret"}));
    dir.write(fs::path("model") / index_name, text);
  };
}

auto with_map(const std::string& weight_map) {
  return with_index(index_of(weight_map));
}

auto with_tensors(const std::vector<std::string>& names) {
  return [names](const TempDir& dir) {
    dir.write("model/model.safetensors", shard(names));
  };
}

/// The good map, with `c` in that file.
auto with_c_in(const std::string& file) {
  return with_map(
      R"({"a":"1.safetensors","b":"1.safetensors","c":")" + file + "\"}");
}

std::vector<Malformed> malformed_indexes() {
  const std::string plain = "plain name";
  return {
      {"NoJson", with_index("nonsense"), index_name, "not valid JSON"},
      {"Array", with_index("[]"), index_name, "expected a JSON object"},
      {"NoWeightMap", with_index("{}"), "weight_map", "is missing"},
      {"MapIsList", with_map("[]"), "weight_map", "expected an object"},
      {"MapIsEmpty", with_map("{}"), "weight_map", "is empty"},
      {"FileIsNumber", with_map(R"({"a":1})"), "weight_map.a", "a string"},
      {"KeyTwice",
       with_map(R"({"a":"1.safetensors","a":"2.safetensors"})"),
       "a",
       "twice"},
      {"Parent", with_c_in("../outside.safetensors"), "weight_map.c", plain},
      {"Absolute", with_c_in("/etc/x.safetensors"), "weight_map.c", plain},
      {"Folder", with_c_in("sub/2.safetensors"), "weight_map.c", plain},
      {"Backslash", with_c_in(R"(..\\2.safetensors)"), "weight_map.c", plain},
      {"Nul", with_c_in(R"(2\u0000.safetensors)"), "weight_map.c", plain},
      {"OtherSuffix", with_c_in("2.bin"), "weight_map.c", plain},
      {"EmptyName", with_c_in(""), "weight_map.c", plain},
      {"DotDot", with_c_in(".."), "weight_map.c", plain},
      {"ShardAbsent",
       with_c_in("3.safetensors"),
       "3.safetensors",
       "cannot open"},
      {"TensorNotInShard",
       with_map(
           R"({"a":"1.safetensors","b":"1.safetensors","c":"2.safetensors",)"
           R"("d":"2.safetensors"})"),
       "weight_map",
       "d is in the index for 2.safetensors, which does not hold it"},
      {"TensorNotInIndex",
       with_map(R"({"a":"1.safetensors","c":"2.safetensors"})"),
       "weight_map",
       "b lies in 1.safetensors, not in the index"},
      {"TensorInOtherShard",
       with_map(
           R"({"a":"2.safetensors","b":"1.safetensors","c":"2.safetensors"})"),
       "weight_map",
       "a lies in 1.safetensors, in the index it is in 2.safetensors"},
  };
}

std::vector<Malformed> malformed_directories() {
  return {
      {"Empty", [](const TempDir&) {}, "model", "holds neither"},
      {"LinkOutside",
       [](const TempDir& dir) {
         dir.write("outside.safetensors", shard({"secret"}));
         fs::create_symlink(
             "../outside.safetensors",
             dir.path() / "model" / "model.safetensors");
       },
       "model.safetensors",
       "outside the checkpoint"},
      {"DanglingLink",
       [](const TempDir& dir) {
         fs::create_symlink(
             "nowhere", dir.path() / "model" / "model.safetensors");
       },
       "model.safetensors",
       "cannot open"},
      {"ShardIsADirectory",
       [](const TempDir& dir) {
         fs::create_directory(dir.path() / "model" / "model.safetensors");
       },
       "model.safetensors",
       "not a regular file"},
      {"ExpertMissing",
       with_tensors(
           {"m.experts.0.up_proj.weight", "m.experts.2.up_proj.weight"}),
       "m.switch_mlp.up_proj.weight",
       "expert 1 is missing"},
      {"ExpertTwice",
       with_tensors(
           {"m.experts.0.up_proj.weight", "m.experts.00.up_proj.weight"}),
       "m.experts",
       "means the same as"},
      {"SameMeaning",
       with_tensors({"model.norm.weight", "norm.weight"}),
       "norm.weight",
       "means the same as"},
      {"FusedExpertsOfRank1",
       with_tensors({"m.experts.gate_up_proj"}),
       "m.experts.gate_up_proj",
       "expected [experts,"},
  };
}

std::string test_name(const ::testing::TestParamInfo<Malformed>& info) {
  return info.param.name;
}

INSTANTIATE_TEST_SUITE_P(
    Index,
    MalformedCheckpoint,
    ::testing::ValuesIn(malformed_indexes()),
    test_name);
INSTANTIATE_TEST_SUITE_P(
    Directory,
    MalformedCheckpoint,
    ::testing::ValuesIn(malformed_directories()),
    test_name);

TEST(Checkpoint, LinksIntoTheHubCacheAreFollowed) {
  const TempDir dir;
  const fs::path repository = dir.path() / "models--org--name";
  dir.write("models--org--name/blobs/abc", shard({"a"}));
  const auto snapshot = repository / "snapshots" / "rev";
  fs::create_directories(snapshot);
  fs::create_symlink("../../blobs/abc", snapshot / "model.safetensors");
  EXPECT_EQ(Checkpoint::open(snapshot).tensors().size(), 1u);
  // Only to the blobs of the same repository.
  dir.write("models--org--other/blobs/abc", shard({"a"}));
  fs::remove(snapshot / "model.safetensors");
  fs::create_symlink(
      "../../../models--org--other/blobs/abc", snapshot / "model.safetensors");
  EXPECT_THROW(Checkpoint::open(snapshot), FileError);
}

} // namespace
} // namespace qwen3_mlx
