// SPDX-License-Identifier: MIT
// Quantized caches beside their positions as elements, which the attention of
// many new positions reads.
#pragma once

#include <span>

#include "kernels/cuda/kernels.h"

namespace qwen3_mlx::cuda {

/// New positions of one sequence.
struct QuantizedPiece {
  DecodeSequence cache;
  void* keys; ///< [num_kv_heads, cache.offset + length, head_dim], elements.
  void* values;
  int length;
};

struct QuantizedCacheArgs {
  Float type = Float::bf16; ///< Of elements, scales and biases.
  KvForm kv;
  int num_kv_heads = 1;
  int head_dim = 128; ///< A multiple of kv.group.
};

/// Elements of the positions that caches hold already.
void read_held(
    const Launcher& launcher,
    const QuantizedCacheArgs& args,
    std::span<const QuantizedPiece> pieces);

/// Quantizes the elements of new positions into caches; elements then are what
/// the codes mean, so that a position is the same to all queries.
void quantize_new(
    const Launcher& launcher,
    const QuantizedCacheArgs& args,
    std::span<const QuantizedPiece> pieces);

} // namespace qwen3_mlx::cuda
