// SPDX-License-Identifier: MIT
// The kernels behind decode_attention(): one for caches of elements, one for
// quantized ones.
#pragma once

#include <span>

#include "kernels/cuda/kernels.h"

namespace qwen3_mlx::cuda {

inline constexpr int kDecodeWarps = 4;
inline constexpr int kDecodeTile = 16; ///< Positions a warp takes at once.
inline constexpr int kMaxSplits = 32;
inline constexpr int kMinSplit = kDecodeWarps * kDecodeTile;
/// Query heads that may share a key head.
inline constexpr int kPlainHeads = 16;
inline constexpr int kQuantizedHeads = 8;

/// Positions of one split of a sequence that has `length` of them, where a
/// split is to have `least`.
QWEN3_MLX_HOST_DEVICE constexpr int
split_size(int length, int least = kMinSplit) {
  const int splits =
      length / least < kMaxSplits ? (length + least - 1) / least : kMaxSplits;
  const int each = (length + splits - 1) / splits;
  return (each + kMinSplit - 1) / kMinSplit * kMinSplit;
}

/// Sequences of a launch: those given, or else those of the table.
struct DecodeSequences {
  std::span<const DecodeSequence> given;
  const DecodeTable* table = nullptr;
  int max_splits = 1;
};

void start_plain_decode(
    const Launcher& launcher,
    const DecodeAttentionArgs& args,
    const DecodeSequences& sequences);

void start_quantized_decode(
    const Launcher& launcher,
    const DecodeAttentionArgs& args,
    const DecodeSequences& sequences);

} // namespace qwen3_mlx::cuda
