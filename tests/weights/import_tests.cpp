// SPDX-License-Identifier: MIT
// Checkpoints of other programs that are malformed: each is refused by an error
// that names the file and the tensor or field. Values are compared by
// scripts/parity_import.py.
#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <optional>
#include <span>
#include <utility>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "formats/safetensors.h"
#include "qwen3_mlx/error.h"
#include "testing/temp_dir.h"
#include "weights/checkpoint.h"
#include "weights/row_source.h"

namespace qwen3_mlx {
namespace {

using Json = nlohmann::json;
using ::testing::HasSubstr;
using testing::TempDir;

struct Tensor {
  DType dtype;
  std::vector<std::int64_t> shape;
  std::uint8_t fill = 1;
  std::string text = {}; ///< What it begins with.
};
using Tensors = std::map<std::string, Tensor>;

/// A well-formed checkpoint of one matrix "m" [32, 64] and its config.
struct Scheme {
  Json config;
  Tensors tensors;
};

Scheme awq() {
  return {
      {{"quant_method", "awq"}, {"bits", 4}, {"group_size", 32}},
      {{"m.qweight", {DType::i32, {64, 4}}},
       {"m.qzeros", {DType::i32, {2, 4}}},
       {"m.scales", {DType::f16, {2, 32}}}}};
}

Scheme gptq() {
  return {
      {{"quant_method", "gptq"}, {"bits", 4}, {"group_size", 32}},
      {{"m.qweight", {DType::i32, {8, 32}}},
       {"m.qzeros", {DType::i32, {2, 4}}},
       {"m.scales", {DType::f16, {2, 32}}},
       {"m.g_idx", {DType::i32, {64}, 0}}}};
}

Scheme fp8() {
  return {
      {{"quant_method", "fp8"}, {"weight_block_size", {16, 16}}},
      {{"m.weight", {DType::f8_e4m3, {32, 64}}},
       {"m.weight_scale_inv", {DType::f32, {2, 4}}}}};
}

Json compressed(const std::string& format, const Json& weights) {
  return {
      {"quant_method", "compressed-tensors"},
      {"format", format},
      {"config_groups", {{"group_0", {{"weights", weights}}}}}};
}

Scheme packed() {
  return {
      compressed(
          "pack-quantized",
          {{"num_bits", 4},
           {"type", "int"},
           {"strategy", "group"},
           {"group_size", 32},
           {"symmetric", false}}),
      {{"m.weight_packed", {DType::i32, {32, 8}}},
       {"m.weight_scale", {DType::bf16, {32, 2}}},
       {"m.weight_zero_point", {DType::i32, {4, 2}}},
       {"m.weight_shape", {DType::i64, {2}}}}};
}

Scheme floats() {
  return {
      compressed(
          "float-quantized",
          {{"num_bits", 8}, {"type", "float"}, {"strategy", "channel"}}),
      {{"m.weight", {DType::f8_e4m3, {32, 64}}},
       {"m.weight_scale", {DType::f32, {32, 1}}}}};
}

Scheme nvfp4() {
  return {
      compressed(
          "nvfp4-pack-quantized",
          {{"num_bits", 4},
           {"type", "float"},
           {"strategy", "tensor_group"},
           {"group_size", 16}}),
      {{"m.weight_packed", {DType::u8, {32, 32}}},
       {"m.weight_scale", {DType::f8_e4m3, {32, 4}}},
       {"m.weight_global_scale", {DType::f32, {1}}}}};
}

/// Stays packed: what is imported are the parts that MLX knows.
Scheme mxfp4() {
  return {
      compressed(
          "mxfp4-pack-quantized",
          {{"num_bits", 4},
           {"type", "float"},
           {"strategy", "group"},
           {"group_size", 32}}),
      {{"m.weight_packed", {DType::u8, {32, 32}}},
       {"m.weight_scale", {DType::u8, {32, 2}}}}};
}

/// Scales packed as well. `state`: of the text that describes the matrix.
Scheme nf4(const Json& changes = Json::object()) {
  Json state = {
      {"quant_type", "nf4"},
      {"blocksize", 64},
      {"dtype", "float32"},
      {"shape", {32, 64}},
      {"nested_blocksize", 256},
      {"nested_dtype", "float32"},
      {"nested_offset", 0.5}};
  state.merge_patch(changes);
  const auto text = state.dump();
  return {
      {{"quant_method", "bitsandbytes"},
       {"load_in_4bit", true},
       {"bnb_4bit_quant_type", "nf4"}},
      {{"m.weight", {DType::u8, {1024, 1}}},
       {"m.weight.absmax", {DType::u8, {32}}},
       {"m.weight.quant_map", {DType::f32, {16}}},
       {"m.weight.nested_absmax", {DType::f32, {1}}},
       {"m.weight.nested_quant_map", {DType::f32, {256}}},
       {"m.weight.quant_state.bitsandbytes__nf4",
        {DType::u8, {static_cast<std::int64_t>(text.size())}, 1, text}}}};
}

/// With plain scales.
Scheme fp4() {
  auto scheme = nf4(
      {{"quant_type", "fp4"},
       {"nested_blocksize", nullptr},
       {"nested_dtype", nullptr},
       {"nested_offset", nullptr}});
  scheme.config["bnb_4bit_quant_type"] = "fp4";
  auto state = scheme.tensors.extract("m.weight.quant_state.bitsandbytes__nf4");
  state.key() = "m.weight.quant_state.bitsandbytes__fp4";
  scheme.tensors.insert(std::move(state));
  scheme.tensors.erase("m.weight.nested_absmax");
  scheme.tensors.erase("m.weight.nested_quant_map");
  scheme.tensors["m.weight.absmax"].dtype = DType::f32;
  return scheme;
}

std::vector<Scheme> all_schemes() {
  return {
      awq(), gptq(), fp8(), packed(), floats(), nvfp4(), mxfp4(), nf4(), fp4()};
}

void write(const TempDir& folder, const Scheme& scheme) {
  folder.write(
      "config.json", Json{{"quantization_config", scheme.config}}.dump());
  std::vector<std::vector<std::byte>> data;
  std::vector<TensorToSave> tensors;
  data.reserve(scheme.tensors.size());
  for (const auto& [name, tensor] : scheme.tensors) {
    std::uint64_t n_bytes = dtype_bits(tensor.dtype) / 8;
    for (const auto dim : tensor.shape) {
      n_bytes *= static_cast<std::uint64_t>(dim);
    }
    auto& bytes = data.emplace_back(n_bytes, std::byte{tensor.fill});
    if (name.ends_with(".weight_shape") && bytes.size() == 16 &&
        tensor.fill == 1) {
      const std::array<std::int64_t, 2> shape = {32, 64};
      std::memcpy(bytes.data(), shape.data(), bytes.size());
    }
    const auto text = std::as_bytes(std::span(tensor.text));
    std::copy_n(
        text.begin(), std::min(bytes.size(), text.size()), bytes.begin());
    tensors.push_back({name, tensor.dtype, tensor.shape, bytes});
  }
  save_safetensors(folder.path() / "model.safetensors", tensors);
}

void read_all(const std::filesystem::path& folder) {
  const auto checkpoint = Checkpoint::open(folder);
  const auto* weight = checkpoint.find("m.weight");
  ASSERT_NE(weight, nullptr);
  if (weight->type == StoredType::u32) {
    const auto* scales = checkpoint.find("m.scales");
    ASSERT_NE(scales, nullptr);
    if (weight->shape != std::vector<std::int64_t>{32, 8} ||
        scales->shape != std::vector<std::int64_t>{32, 2}) {
      throw TensorError(folder, "m.weight", "has another shape");
    }
    return;
  }
  ASSERT_NE(weight->rows, nullptr);
  if (weight->shape != std::vector<std::int64_t>{32, 64}) {
    // What the load plan does, which knows the model's shapes.
    throw TensorError(folder, "m.weight", "has another shape");
  }
  std::vector<float> values(32 * 64);
  weight->rows->read_rows(0, 32, values.data());
}

TEST(Import, WellFormedCheckpointsAreRead) {
  for (const auto& scheme : all_schemes()) {
    const TempDir folder;
    write(folder, scheme);
    read_all(folder.path());
  }
}

/// Every part missing, of another type, of another rank, and with each
/// dimension one larger, one smaller and zero.
TEST(Import, PartsThatDoNotFitAreNamed) {
  int n_cases = 0;
  for (const auto& scheme : all_schemes()) {
    for (const auto& [name, tensor] : scheme.tensors) {
      std::vector<std::pair<std::string, std::optional<Tensor>>> changes;
      if (name != "m.g_idx") {
        changes.emplace_back("missing", std::nullopt);
      }
      auto typed = tensor;
      typed.dtype = DType::i16;
      changes.emplace_back("typed", typed);
      auto deeper = tensor;
      deeper.shape.insert(deeper.shape.begin(), {1, 1});
      changes.emplace_back("deeper", deeper);
      for (std::size_t dim = 0; dim < tensor.shape.size(); ++dim) {
        for (const std::int64_t size :
             {tensor.shape[dim] + 1, tensor.shape[dim] - 1, std::int64_t{0}}) {
          auto changed = tensor;
          changed.shape[dim] = size;
          changes.emplace_back("dim " + std::to_string(dim), changed);
        }
      }
      for (const auto& [what, changed] : changes) {
        auto broken = scheme;
        if (changed) {
          broken.tensors[name] = *changed;
        } else {
          broken.tensors.erase(name);
        }
        const TempDir folder;
        write(folder, broken);
        ++n_cases;
        try {
          read_all(folder.path());
          ADD_FAILURE() << name << ", " << what << ": was accepted";
        } catch (const TensorError& error) {
          EXPECT_THAT(error.tensor(), HasSubstr("m.")) << what;
        } catch (const FileError& error) {
          // Without its packed tensor nothing tells that there is a matrix.
          EXPECT_THAT(error.what(), HasSubstr("config.json says")) << name;
        }
      }
    }
  }
  RecordProperty("malformed_inputs", n_cases);
  EXPECT_GE(n_cases, 200);
}

TEST(Import, NumbersOutOfRangeAreNamed) {
  auto scheme = gptq();
  scheme.tensors["m.g_idx"].fill = 2;
  TempDir folder;
  write(folder, scheme);
  EXPECT_THROW(read_all(folder.path()), TensorError);
  scheme = packed();
  scheme.tensors["m.weight_shape"].fill = 0;
  write(folder, scheme);
  EXPECT_THROW(read_all(folder.path()), TensorError);
  // Zero, a negative number, NaN.
  for (const auto fill : std::vector<std::uint8_t>{0, 0x80, 0xFF}) {
    scheme = nvfp4();
    scheme.tensors["m.weight_global_scale"].fill = fill;
    write(folder, scheme);
    EXPECT_THROW(read_all(folder.path()), TensorError);
  }
}

TEST(Import, TextsThatDoNotDescribeTheMatrixAreNamed) {
  const std::vector<std::pair<Json, std::string>> cases = {
      {{{"quant_type", "fp4"}}, "quant_type"},
      {{{"quant_type", nullptr}}, "quant_type"},
      {{{"blocksize", 0}}, "blocksize"},
      {{{"blocksize", -64}}, "blocksize"},
      {{{"blocksize", 1e18}}, "blocksize"},
      {{{"blocksize", nullptr}}, "blocksize"},
      {{{"blocksize", 128}}, "absmax"},
      {{{"shape", {32, 64, 1}}}, "shape"},
      {{{"shape", {64}}}, "shape"},
      {{{"shape", nullptr}}, "shape"},
      {{{"shape", {32, 0}}}, "shape"},
      {{{"shape", {-32, -64}}}, "shape"},
      {{{"shape", {32, 63}}}, "m.weight"},
      {{{"shape", {2147483647, 2147483647}}}, "m.weight"},
      {{{"shape", {2147483648, 1}}}, "shape"},
      {{{"nested_blocksize", 0}}, "nested_blocksize"},
      {{{"nested_blocksize", 16}}, "nested_absmax"},
      {{{"nested_blocksize", nullptr}}, "absmax"},
      {{{"nested_offset", nullptr}}, "nested_offset"},
      {{{"nested_offset", "0.5"}}, "nested_offset"},
      {{{"nested_offset", 1e300}}, "nested_offset"},
  };
  for (const auto& [changes, named] : cases) {
    const TempDir folder;
    write(folder, nf4(changes));
    try {
      Checkpoint::open(folder.path());
      ADD_FAILURE() << changes << " was accepted";
    } catch (const TensorError& error) {
      EXPECT_THAT(error.what(), HasSubstr(named)) << changes;
      EXPECT_EQ(error.path(), folder.path() / "model.safetensors") << changes;
    }
  }
}

// Its numbers follow each other whatever the rows are: here rows and blocks
// begin in the middle of a byte.
TEST(Import, BlocksOfBitsandbytesCrossRows) {
  auto scheme = nf4({{"shape", {3, 5}}, {"blocksize", 4}});
  scheme.tensors["m.weight"].shape = {8, 1};
  scheme.tensors["m.weight"].text = "\x01\x23\x45\x67\x89\xAB\xCD\xE0";
  scheme.tensors["m.weight.absmax"] = {DType::u8, {4}, 0, "\1\2\3\4"};
  const auto floats = [](std::size_t count, auto value_at) {
    std::string bytes(count * sizeof(float), '\0');
    for (std::size_t idx = 0; idx < count; ++idx) {
      const float value = value_at(static_cast<float>(idx));
      std::memcpy(&bytes[idx * sizeof(float)], &value, sizeof(value));
    }
    return bytes;
  };
  scheme.tensors["m.weight.quant_map"].text =
      floats(16, [](float idx) { return idx - 8; });
  scheme.tensors["m.weight.nested_quant_map"].text =
      floats(256, [](float idx) { return idx; });
  scheme.tensors["m.weight.nested_absmax"].text =
      floats(1, [](float) { return 2.0f; });
  const TempDir folder;
  write(folder, scheme);
  const auto checkpoint = Checkpoint::open(folder.path());
  const auto* weight = checkpoint.find("m.weight");
  ASSERT_NE(weight, nullptr);
  ASSERT_EQ(weight->shape, (std::vector<std::int64_t>{3, 5}));
  for (std::uint64_t first = 0; first < 3; ++first) {
    for (std::uint64_t count = 1; first + count <= 3; ++count) {
      std::vector<float> values(count * 5);
      weight->rows->read_rows(first, count, values.data());
      for (std::size_t idx = 0; idx < values.size(); ++idx) {
        const auto at = first * 5 + idx; // also its code
        const auto scale = static_cast<float>(at / 4 + 1) * 2 + 0.5f;
        EXPECT_EQ(values[idx], (static_cast<float>(at) - 8) * scale) << at;
      }
    }
  }
}

TEST(Import, AWeightBesideItsPackedFormIsRefused) {
  auto scheme = awq();
  scheme.tensors["m.weight"] = {DType::f16, {32, 64}};
  const TempDir folder;
  write(folder, scheme);
  EXPECT_THROW(read_all(folder.path()), TensorError);
}

struct BadConfig {
  Json config;
  std::string field;
};

TEST(Import, ConfigsThatContradictThemselvesNameTheField) {
  const auto with = [](Scheme scheme, const std::string& key, Json value) {
    scheme.config[key] = std::move(value);
    return scheme.config;
  };
  const auto weights = [](Scheme scheme, const std::string& key, Json value) {
    scheme.config["config_groups"]["group_0"]["weights"][key] =
        std::move(value);
    return scheme.config;
  };
  auto two_groups = packed().config;
  two_groups["config_groups"]["group_1"] = Json::object();
  const std::vector<BadConfig> cases = {
      {with(nf4(), "load_in_4bit", false), "load_in_4bit"},
      {with(nf4(), "load_in_4bit", "yes"), "load_in_4bit"},
      {with(nf4(), "load_in_8bit", true), "load_in_4bit"},
      {with(nf4(), "bnb_4bit_quant_type", "int4"), "bnb_4bit_quant_type"},
      {with(nf4(), "bnb_4bit_quant_type", 4), "bnb_4bit_quant_type"},
      {with(awq(), "quant_method", "hqq"), "quant_method"},
      {with(awq(), "quant_method", 4), "quant_method"},
      {with(awq(), "bits", 3), "bits"},
      {with(awq(), "bits", "4"), "bits"},
      {with(awq(), "bits", nullptr), "w_bit"},
      {with(awq(), "group_size", 0), "group_size"},
      {with(awq(), "group_size", -2), "group_size"},
      {with(awq(), "version", "gemv"), "version"},
      {with(awq(), "zero_point", false), "zero_point"},
      {with(gptq(), "bits", 5), "bits"},
      {with(gptq(), "bits", 0), "bits"},
      {with(gptq(), "bits", -4), "bits"},
      {with(gptq(), "group_size", 1.5), "group_size"},
      {with(gptq(), "group_size", nullptr), "group_size"},
      {with(gptq(), "checkpoint_format", "marlin"), "checkpoint_format"},
      {with(fp8(), "fmt", "e5m2"), "fmt"},
      {with(fp8(), "weight_block_size", {128}), "weight_block_size"},
      {with(fp8(), "weight_block_size", {0, 128}), "weight_block_size"},
      {with(fp8(), "weight_block_size", "128"), "weight_block_size"},
      {with(packed(), "format", "marlin-24"), "format"},
      {with(packed(), "format", "nvfp4-pack-quantized"), "type"},
      {weights(nvfp4(), "num_bits", 8), "num_bits"},
      {weights(nvfp4(), "group_size", 32), "group_size"},
      {weights(nvfp4(), "group_size", nullptr), "group_size"},
      {weights(nvfp4(), "strategy", "group"), "strategy"},
      {weights(nvfp4(), "symmetric", false), "symmetric"},
      {weights(mxfp4(), "group_size", 16), "group_size"},
      {weights(mxfp4(), "strategy", "channel"), "strategy"},
      {with(packed(), "format", nullptr), "format"},
      {with(packed(), "config_groups", nullptr), "config_groups"},
      {two_groups, "config_groups"},
      {weights(packed(), "num_bits", 3), "num_bits"},
      {weights(packed(), "type", "float"), "type"},
      {weights(packed(), "group_size", 0), "group_size"},
      {weights(floats(), "type", "int"), "type"},
      {weights(floats(), "num_bits", 4), "num_bits"},
      {weights(floats(), "strategy", "block"), "block_structure"},
      {weights(floats(), "strategy", "token"), "strategy"},
  };
  for (const auto& [config, field] : cases) {
    const TempDir folder;
    write(folder, {config, awq().tensors});
    try {
      Checkpoint::open(folder.path());
      ADD_FAILURE() << config << " was accepted";
    } catch (const FieldError& error) {
      EXPECT_EQ(error.path(), folder.path() / "config.json");
      EXPECT_THAT(error.field(), HasSubstr("quantization_config."));
      EXPECT_THAT(error.field(), HasSubstr(field)) << config;
    }
  }
}

} // namespace
} // namespace qwen3_mlx
