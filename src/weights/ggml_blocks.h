// SPDX-License-Identifier: MIT
// ggml's blocks of 32 numbers as MLX's affine groups of 32, exactly:
// scale * q + bias gives the same float32 for every element.
#pragma once

#include <cstddef>
#include <cstdint>

#include "mlx/types/half_types.h"
#include "weights/row_copy.h"

namespace qwen3_mlx {

struct AffineGroup {
  mx::float16_t scale;
  mx::float16_t bias;
};

/// Bytes of a block in the file: 17 (mxfp4), 18, 20 or 34.
std::size_t ggml_block_bytes(RowCodec codec);

/// Writes the 32 numbers of a block as MLX packs them (16 bytes of nibbles or
/// 32 bytes) and returns their group.
///   q4_0: d * (q - 8)  = d * q + (-8 d)
///   q4_1: d * q + m
///   q8_0: d * (s), s signed = d * (s + 128) + (-128 d)
/// The products by powers of two are exact unless they overflow to infinity.
AffineGroup
unpack_ggml_block(RowCodec codec, const std::byte* block, std::byte* packed);

/// The 32 nibbles of a block (ggml: the first half in the low ones) in MLX's
/// order (number i in nibble i).
void repack_ggml_nibbles(const std::byte* from, std::byte* to);

} // namespace qwen3_mlx
