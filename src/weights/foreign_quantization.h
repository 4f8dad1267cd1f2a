// SPDX-License-Identifier: MIT
// Quantized checkpoints of other programs: what config.json says of them, and
// their matrices under the names of plain ones.
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>

#include "qwen3_mlx/config.h"
#include "qwen3_mlx/quant_format.h"
#include "weights/checkpoint.h"

namespace qwen3_mlx {

enum class ForeignMethod {
  fp8,             ///< FP8 (E4M3) with float scales of blocks.
  awq,             ///< 4 bits with zero points, the layout of AutoAWQ's "gemm".
  gptq,            ///< 2, 3, 4 or 8 bits, v1 and v2 zero points, g_idx.
  pack_quantized,  ///< compressed-tensors: 4 or 8 bits.
  float_quantized, ///< compressed-tensors: FP8 (E4M3).
  nvfp4_pack_quantized, ///< compressed-tensors: FP4, scales FP8 and one float.
  mxfp4_pack_quantized, ///< compressed-tensors: as MLX's mxfp4.
  bitsandbytes,         ///< 4 bits of a table: nf4 or fp4.
};

struct ForeignQuantization {
  ForeignMethod method;
  std::string name; ///< As the config calls it, for messages.
  int bits = 0;
  /// Inputs that share a scale; 0: all of a row.
  int group_size = 0;
  int block_rows = 0;    ///< fp8
  int block_columns = 0; ///< fp8
  bool symmetric = true; ///< pack_quantized
  int zero_offset = 0;   ///< gptq: 1 where stored zero points are one less.
  /// bitsandbytes: "bitsandbytes__nf4", the end of a name of each matrix.
  std::string state_name = {};
};

/// From "quantization_config"; nothing where there is none or it is MLX's own.
/// Throws FieldError for methods and settings that are not known.
std::optional<ForeignQuantization>
parse_foreign_quantization(const Config& config);

/// What MLX calls matrices that stay packed; nothing where they become floats.
std::optional<QuantFormat> mlx_format(const ForeignQuantization& quantization);

using TensorMap = std::map<std::string, StoredTensor, std::less<>>;

/// Replaces the parts of each packed matrix by one tensor "<module>.weight" of
/// type `imported`, or by what MLX calls its parts. Throws TensorError for
/// parts that are missing or do not fit each other.
void import_foreign(
    const std::filesystem::path& path,
    const ForeignQuantization& quantization,
    TensorMap& tensors);

} // namespace qwen3_mlx
