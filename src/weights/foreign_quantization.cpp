// SPDX-License-Identifier: MIT
#include "weights/foreign_quantization.h"

#include <array>
#include <string_view>
#include <utility>

#include "weights/import_bitsandbytes.h"
#include "weights/import_fp4.h"
#include "weights/import_fp8.h"
#include "weights/import_packed.h"

namespace qwen3_mlx {
namespace {

int one_of(
    const Config& config,
    const char* key,
    std::initializer_list<int> all) {
  const auto value = static_cast<int>(config.get_int(key, 0, 1 << 20));
  std::string known;
  for (const int each : all) {
    if (each == value) {
      return value;
    }
    known += (known.empty() ? "" : ", ") + std::to_string(each);
  }
  config.fail(key, "expected " + known + ", found " + std::to_string(value));
}

/// -1 stands for one group a row.
int group_size_of(const Config& config, const char* key) {
  const auto value = config.get_int(key, -1, 1 << 20);
  if (value == 0) {
    config.fail(key, "expected -1 or a positive number, found 0");
  }
  return value < 0 ? 0 : static_cast<int>(value);
}

ForeignQuantization parse_fp8(const Config& config) {
  ForeignQuantization out{ForeignMethod::fp8, "fp8"};
  const auto format = config.get_string_or("fmt", "e4m3");
  if (format != "e4m3") {
    config.fail("fmt", "expected \"e4m3\", found \"" + format + "\"");
  }
  const auto block = config.get_ints("weight_block_size", 1, 1 << 20);
  if (!block.empty() && block.size() != 2) {
    config.fail(
        "weight_block_size",
        "expected two numbers, found " + std::to_string(block.size()));
  }
  if (!block.empty()) {
    out.block_rows = static_cast<int>(block[0]);
    out.block_columns = static_cast<int>(block[1]);
  }
  return out;
}

ForeignQuantization parse_awq(const Config& config) {
  ForeignQuantization out{ForeignMethod::awq, "awq"};
  const auto version = config.get_string_or("version", "gemm");
  if (version != "gemm" && version != "GEMM") {
    config.fail("version", "expected \"gemm\", found \"" + version + "\"");
  }
  out.bits = one_of(config, config.has("bits") ? "bits" : "w_bit", {4});
  out.group_size = group_size_of(
      config, config.has("group_size") ? "group_size" : "q_group_size");
  if (!config.get_bool_or("zero_point", true)) {
    config.fail("zero_point", "expected true, found false");
  }
  return out;
}

ForeignQuantization parse_gptq(const Config& config) {
  ForeignQuantization out{ForeignMethod::gptq, "gptq"};
  out.bits = one_of(config, "bits", {2, 3, 4, 8});
  out.group_size = group_size_of(config, "group_size");
  const auto format = config.get_string_or("checkpoint_format", "gptq");
  if (format != "gptq" && format != "gptq_v2") {
    config.fail(
        "checkpoint_format",
        "expected \"gptq\" or \"gptq_v2\", found \"" + format + "\"");
  }
  out.zero_offset = format == "gptq" ? 1 : 0;
  return out;
}

/// A format of compressed-tensors, as its "weights" must describe it.
struct CompressedRow {
  std::string_view format;
  ForeignMethod method;
  std::string_view type;
  std::string_view strategy; ///< Empty: several.
  int group_size;            ///< 0: several.
};

constexpr auto compressed_rows = std::to_array<CompressedRow>({
    {"pack-quantized", ForeignMethod::pack_quantized, "int", "", 0},
    {"float-quantized", ForeignMethod::float_quantized, "float", "", 0},
    {"nvfp4-pack-quantized",
     ForeignMethod::nvfp4_pack_quantized,
     "float",
     "tensor_group",
     16},
    {"mxfp4-pack-quantized",
     ForeignMethod::mxfp4_pack_quantized,
     "float",
     "group",
     32},
});

const CompressedRow& compressed_row(const Config& config) {
  const auto format = config.get_string_or("format", "");
  std::string known;
  for (const auto& row : compressed_rows) {
    if (row.format == format) {
      return row;
    }
    known += (known.empty() ? "" : ", ") + std::string(row.format);
  }
  config.fail(
      "format", "expected one of " + known + "; found \"" + format + "\"");
}

/// Of pack-quantized and float-quantized: who shares a scale.
void parse_strategy(
    const Config& weights,
    bool packed,
    ForeignQuantization& out) {
  const auto strategy = weights.get_string_or("strategy", "tensor");
  if (strategy == "group" || (packed && weights.has("group_size"))) {
    out.group_size = group_size_of(weights, "group_size");
  } else if (strategy == "block" && !packed) {
    const auto block = weights.get_ints("block_structure", 1, 1 << 20);
    if (block.size() != 2) {
      weights.fail("block_structure", "expected two numbers");
    }
    out.block_rows = static_cast<int>(block[0]);
    out.block_columns = static_cast<int>(block[1]);
  } else if (strategy != "channel" && (packed || strategy != "tensor")) {
    weights.fail("strategy", "\"" + strategy + "\" is not known here");
  }
}

ForeignQuantization parse_compressed(const Config& config) {
  const auto& row = compressed_row(config);
  const auto format = std::string(row.format);
  ForeignQuantization out{row.method, "compressed-tensors " + format};
  const auto groups = config.sub("config_groups");
  const auto names = groups.keys();
  if (names.size() != 1) {
    config.fail(
        "config_groups",
        "expected one group of modules, found " + std::to_string(names.size()));
  }
  const auto weights = groups.sub(names.front()).sub("weights");
  if (weights.get_string_or("type", "int") != row.type) {
    weights.fail("type", "does not go with the format " + format);
  }
  out.symmetric = weights.get_bool_or("symmetric", true);
  if (row.group_size == 0) {
    const bool packed = row.method == ForeignMethod::pack_quantized;
    out.bits = packed ? one_of(weights, "num_bits", {4, 8})
                      : one_of(weights, "num_bits", {8});
    parse_strategy(weights, packed, out);
    return out;
  }
  out.bits = one_of(weights, "num_bits", {4});
  out.group_size = one_of(weights, "group_size", {row.group_size});
  const auto strategy =
      weights.get_string_or("strategy", std::string(row.strategy));
  if (strategy != row.strategy) {
    weights.fail(
        "strategy",
        "expected \"" + std::string(row.strategy) + "\" with the format " +
            format + ", found \"" + strategy + "\"");
  }
  if (!out.symmetric) {
    weights.fail("symmetric", "expected true with the format " + format);
  }
  return out;
}

ForeignQuantization parse_bitsandbytes(const Config& config) {
  if (config.get_bool_or("load_in_8bit", false) ||
      !config.get_bool_or("load_in_4bit", true)) {
    config.fail(
        "load_in_4bit",
        "expected true: of bitsandbytes 4 bits (nf4, fp4) can be read, 8 bits "
        "(LLM.int8) cannot; use this model as it was before that");
  }
  const auto type = config.get_string_or("bnb_4bit_quant_type", "fp4");
  if (type != "nf4" && type != "fp4") {
    config.fail(
        "bnb_4bit_quant_type",
        "expected \"nf4\" or \"fp4\", found \"" + type + "\"");
  }
  ForeignQuantization out{ForeignMethod::bitsandbytes, "bitsandbytes " + type};
  out.bits = 4;
  out.state_name = "bitsandbytes__" + type;
  return out;
}

} // namespace

std::optional<ForeignQuantization>
parse_foreign_quantization(const Config& config) {
  if (config.has("quantization") || !config.has("quantization_config")) {
    return std::nullopt;
  }
  const auto section = config.sub("quantization_config");
  const auto method = section.get_string_or("quant_method", "");
  if (method.empty() || method == "mlx") {
    return std::nullopt;
  }
  if (method == "fp8") {
    return parse_fp8(section);
  }
  if (method == "awq") {
    return parse_awq(section);
  }
  if (method == "gptq") {
    return parse_gptq(section);
  }
  if (method == "compressed-tensors") {
    return parse_compressed(section);
  }
  if (method == "bitsandbytes") {
    return parse_bitsandbytes(section);
  }
  section.fail(
      "quant_method",
      "\"" + method +
          "\" weights cannot be read; known are fp8, awq, gptq, "
          "compressed-tensors and bitsandbytes; or use an mlx-community "
          "conversion of this "
          "model, or one that is not quantized");
}

std::optional<QuantFormat> mlx_format(const ForeignQuantization& quantization) {
  if (quantization.method != ForeignMethod::mxfp4_pack_quantized) {
    return std::nullopt;
  }
  return QuantFormat{
      QuantMode::mxfp4, quantization.bits, quantization.group_size};
}

void import_foreign(
    const std::filesystem::path& path,
    const ForeignQuantization& quantization,
    TensorMap& tensors) {
  switch (quantization.method) {
  case ForeignMethod::fp8:
  case ForeignMethod::float_quantized:
    import_fp8(path, quantization, tensors);
    break;
  case ForeignMethod::awq:
  case ForeignMethod::gptq:
  case ForeignMethod::pack_quantized:
    import_packed(path, quantization, tensors);
    break;
  case ForeignMethod::nvfp4_pack_quantized:
  case ForeignMethod::mxfp4_pack_quantized:
    import_fp4(path, quantization, tensors);
    break;
  case ForeignMethod::bitsandbytes:
    import_bitsandbytes(path, quantization, tensors);
    break;
  }
}

} // namespace qwen3_mlx
