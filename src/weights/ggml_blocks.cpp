// SPDX-License-Identifier: MIT
#include "weights/ggml_blocks.h"

#include <cstring>

namespace qwen3_mlx {
namespace {

mx::float16_t read_half(const std::byte* from) {
  mx::float16_t value;
  std::memcpy(&value, from, sizeof(value));
  return value;
}

mx::float16_t times(mx::float16_t value, float factor) {
  return mx::float16_t(static_cast<float>(value) * factor);
}

} // namespace

std::size_t ggml_block_bytes(RowCodec codec) {
  return codec == RowCodec::mxfp4 ? 17
      : codec == RowCodec::q4_0   ? 18
      : codec == RowCodec::q4_1   ? 20
                                  : 34;
}

void repack_ggml_nibbles(const std::byte* from, std::byte* to) {
  constexpr std::byte low{0x0F};
  for (std::size_t idx = 0; idx < 8; ++idx) {
    const auto even = from[2 * idx];
    const auto odd = from[2 * idx + 1];
    to[idx] = (even & low) | (odd << 4);
    to[idx + 8] = (even >> 4) | (odd & ~low);
  }
}

AffineGroup
unpack_ggml_block(RowCodec codec, const std::byte* block, std::byte* packed) {
  const auto scale = read_half(block);
  if (codec == RowCodec::q4_1) {
    repack_ggml_nibbles(block + 4, packed);
    return {scale, read_half(block + 2)};
  }
  if (codec == RowCodec::q4_0) {
    repack_ggml_nibbles(block + 2, packed);
    return {scale, times(scale, -8.0f)};
  }
  for (std::size_t idx = 0; idx < 32; ++idx) {
    packed[idx] = block[2 + idx] ^ std::byte{0x80}; // + 128
  }
  return {scale, times(scale, -128.0f)};
}

} // namespace qwen3_mlx
