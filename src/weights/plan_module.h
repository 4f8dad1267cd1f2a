// SPDX-License-Identifier: MIT
// What a load plan finds of one module in the checkpoint. Private to PlanState.
#pragma once

#include <optional>

#include "mlx/dtype.h"
#include "weights/plan_state.h"
#include "weights/stored_format.h"

namespace qwen3_mlx {

/// Of a plain tensor.
inline bool is_float(StoredType type) {
  return type == StoredType::f32 || type == StoredType::f16 ||
      type == StoredType::bf16;
}

/// MLX's type of a plain tensor.
inline mx::Dtype to_dtype(StoredType type) {
  return type == StoredType::f32 ? mx::float32
      : type == StoredType::f16  ? mx::float16
      : type == StoredType::bf16 ? mx::bfloat16
      : type == StoredType::u32  ? mx::uint32
                                 : mx::uint8;
}

/// Of a tensor that becomes a plain one.
inline bool is_plain(StoredType type) {
  return is_float(type) || type == StoredType::ggml ||
      type == StoredType::imported;
}

/// What the checkpoint holds of one module.
struct PlanState::Module {
  QuantFormat format;
  const StoredTensor* weight = nullptr; ///< nullptr: missing or random.
  const StoredTensor* scales = nullptr;
  const StoredTensor* biases = nullptr;
  mx::Dtype scale_dtype = mx::uint8;
  bool usable = false; ///< All parts are there, of the types they must have.

  bool merges_with(const Module& other) const {
    return usable && other.usable && format == other.format &&
        (!format.is_quantized() || scale_dtype == other.scale_dtype);
  }
};

} // namespace qwen3_mlx
