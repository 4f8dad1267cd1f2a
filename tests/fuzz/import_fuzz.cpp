// SPDX-License-Identifier: MIT
// A checkpoint of AWQ, GPTQ, FP8, compressed-tensors or bitsandbytes: the first
// byte picks one of the configs, the rest is model.safetensors. Refused by an
// Error, or every row of what was imported can be read.
#include <array>
#include <cstdlib>
#include <string_view>
#include <vector>

#include "fuzz/fuzz_file.h"
#include "qwen3_mlx/error.h"
#include "weights/checkpoint.h"

namespace {

constexpr std::array<std::string_view, 13> configs = {
    R"({"quant_method":"fp8","weight_block_size":[4,4]})",
    R"({"quant_method":"fp8"})",
    R"({"quant_method":"awq","bits":4,"group_size":8})",
    R"({"quant_method":"gptq","bits":4,"group_size":8})",
    R"({"quant_method":"gptq","bits":3,"group_size":-1,
        "checkpoint_format":"gptq_v2"})",
    R"({"quant_method":"compressed-tensors","format":"pack-quantized",
        "config_groups":{"g":{"weights":{"num_bits":4,"group_size":8,
        "strategy":"group"}}}})",
    R"({"quant_method":"compressed-tensors","format":"pack-quantized",
        "config_groups":{"g":{"weights":{"num_bits":8,"strategy":"channel",
        "symmetric":false}}}})",
    R"({"quant_method":"compressed-tensors","format":"float-quantized",
        "config_groups":{"g":{"weights":{"num_bits":8,"type":"float",
        "strategy":"channel"}}}})",
    R"({"quant_method":"gptq","bits":2,"group_size":4})",
    R"({"quant_method":"compressed-tensors","format":"nvfp4-pack-quantized",
        "config_groups":{"g":{"weights":{"num_bits":4,"type":"float",
        "strategy":"tensor_group","group_size":16}}}})",
    R"({"quant_method":"compressed-tensors","format":"mxfp4-pack-quantized",
        "config_groups":{"g":{"weights":{"num_bits":4,"type":"float",
        "strategy":"group","group_size":32}}}})",
    R"({"quant_method":"bitsandbytes","load_in_4bit":true,
        "bnb_4bit_quant_type":"nf4"})",
    R"({"quant_method":"bitsandbytes","load_in_4bit":true,
        "bnb_4bit_quant_type":"fp4"})",
};

// What a fuzzer can claim without holding it is not worth its time.
constexpr std::uint64_t max_elements = 1 << 16;

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t n) {
  static qwen3_mlx::testing::FuzzFile file("model.safetensors");
  if (n == 0) {
    return 0;
  }
  file.directory().write(
      "config.json",
      R"({"quantization_config":)" +
          std::string(configs[data[0] % configs.size()]) + "}");
  const auto path = file.write(data + 1, n - 1);
  try {
    const auto checkpoint = qwen3_mlx::Checkpoint::open(path.parent_path());
    for (const auto& [name, tensor] : checkpoint.tensors()) {
      if (tensor.rows == nullptr) {
        continue;
      }
      std::uint64_t n_elements = 1;
      for (const auto dim : tensor.shape) {
        n_elements *= static_cast<std::uint64_t>(dim);
      }
      if (n_elements > max_elements) {
        continue;
      }
      const auto n_rows =
          n_elements / static_cast<std::uint64_t>(tensor.shape.back());
      std::vector<float> values(n_elements);
      tensor.rows->read_rows(0, n_rows, values.data());
    }
  } catch (const qwen3_mlx::Error&) {
  }
  return 0;
}
