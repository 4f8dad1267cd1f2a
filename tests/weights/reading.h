// SPDX-License-Identifier: MIT
// What tests of loading ask of arrays and matrices, computed in plain loops.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "formats/safetensors.h"
#include "mlx/array.h"
#include "mlx/ops.h"
#include "qwen3_mlx/matrix.h"
#include "weights/load_plan.h"

namespace qwen3_mlx::testing {
namespace mx = mlx::core;

/// A file's tensor, which must be F32.
inline std::vector<float>
floats_of(const SafetensorsFile& file, const std::string& name) {
  const auto* tensor = file.find(name);
  if (tensor == nullptr || tensor->dtype != DType::f32) {
    throw std::runtime_error("no float tensor " + name);
  }
  std::vector<float> values(tensor->n_bytes / sizeof(float));
  file.file().read(tensor->offset, tensor->n_bytes, values.data());
  return values;
}

/// Values of an evaluated array of any float type.
inline std::vector<float> floats_of(const mx::array& array) {
  std::vector<float> values(array.size());
  for (std::size_t idx = 0; idx < values.size(); ++idx) {
    values[idx] = array.dtype() == mx::float32 ? array.data<float>()[idx]
        : array.dtype() == mx::float16
        ? static_cast<float>(array.data<mx::float16_t>()[idx])
        : static_cast<float>(array.data<mx::bfloat16_t>()[idx]);
  }
  return values;
}

/// Elements in float32; packed ones of mode affine with 2, 4 or 8 bits.
inline std::vector<float> dequantize(const Matrix& matrix) {
  if (!matrix.format.is_quantized()) {
    return floats_of(matrix.weight);
  }
  const auto scales = floats_of(*matrix.scales);
  const auto biases = floats_of(*matrix.biases);
  const auto bits = static_cast<std::size_t>(matrix.format.bits);
  const auto group = static_cast<std::size_t>(matrix.format.group_size);
  const std::size_t per_word = 32 / bits;
  std::vector<float> values(matrix.weight.size() * per_word);
  for (std::size_t idx = 0; idx < values.size(); ++idx) {
    const auto word = matrix.weight.data<std::uint32_t>()[idx / per_word];
    const auto q = (word >> (idx % per_word * bits)) & ((1u << bits) - 1);
    const float product = scales[idx / group] * static_cast<float>(q);
    values[idx] = product + biases[idx / group];
  }
  return values;
}

/// Values of all shapes after each other.
inline std::vector<float>
concatenate(std::vector<float> a, const std::vector<float>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

} // namespace qwen3_mlx::testing
