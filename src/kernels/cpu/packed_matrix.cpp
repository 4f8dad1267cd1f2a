// SPDX-License-Identifier: MIT
#include "kernels/cpu/packed_matrix.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace qwen3_mlx::cpu {

namespace {

// A row's codes as one bit stream, lowest bit first, as MLX packs all widths.
class CodeRow {
 public:
  CodeRow(const void* data, int row, int cols, int bits)
      : bytes_(
            static_cast<const std::uint8_t*>(data) +
            static_cast<std::size_t>(row) * static_cast<std::size_t>(cols) *
                static_cast<std::size_t>(bits) / 8),
        bits_(static_cast<std::size_t>(bits)) {}

  std::uint8_t operator[](int col) const {
    const std::size_t bit = static_cast<std::size_t>(col) * bits_;
    unsigned value = bytes_[bit / 8];
    if (bit % 8 + bits_ > 8) {
      value |= unsigned{bytes_[bit / 8 + 1]} << 8;
    }
    return static_cast<std::uint8_t>(
        (value >> (bit % 8)) & ((1U << bits_) - 1U));
  }

 private:
  const std::uint8_t* bytes_;
  std::size_t bits_;
};

float e8m0_to_float(std::uint8_t code) {
  // 255 is NaN in the format; as a power it would be infinity.
  return code == 0xff ? std::nanf("") : std::ldexp(1.0F, int{code} - 127);
}

float e4m3_to_float(std::uint8_t code) {
  const int exponent = (code >> 3) & 15;
  const int mantissa = code & 7;
  if (exponent == 15 && mantissa == 7) {
    return std::nanf("");
  }
  const float magnitude = exponent == 0
      ? std::ldexp(static_cast<float>(mantissa), -9)
      : std::ldexp(static_cast<float>(8 + mantissa), exponent - 10);
  return (code & 0x80) != 0 ? -magnitude : magnitude;
}

float minifloat_scale(const SourceMatrix& source, std::size_t index) {
  const std::uint8_t code =
      static_cast<const std::uint8_t*>(source.scales)[index];
  return source.format == SourceFormat::nvfp4 ? e4m3_to_float(code)
                                              : e8m0_to_float(code);
}

// The stored scale of an fp4 block is half the format's: see Codes::fp4.
std::uint16_t fp4_scale_bits(const SourceMatrix& source, std::size_t index) {
  return float_to_bf16(0.5F * minifloat_scale(source, index));
}

std::size_t index_of(int outer, int inner, int size) {
  return static_cast<std::size_t>(outer) * static_cast<std::size_t>(size) +
      static_cast<std::size_t>(inner);
}

// Where column `col` of row `lane` lies inside a block's codes.
struct CodePlace {
  std::size_t byte;
  unsigned shift;
};
CodePlace code_place(Codes codes, int lane, int col) {
  if (codes == Codes::u8) {
    return {static_cast<std::size_t>(col / 4 * 64 + lane * 4 + col % 4), 0};
  }
  return {
      static_cast<std::size_t>(col / 8 * 64 + lane * 4 + col % 4),
      col % 8 < 4 ? 0U : 4U};
}

std::uint8_t read_code(
    const PackedLayout& layout,
    const std::byte* block,
    int lane,
    int col) {
  const CodePlace place = code_place(layout.codes, lane, col);
  const auto byte = std::to_integer<unsigned>(block[place.byte]);
  return static_cast<std::uint8_t>(
      layout.codes == Codes::u8 ? byte : (byte >> place.shift) & 15U);
}

// Elements of mxfp8 become bfloat16.
void widen_mxfp8_row(
    const SourceMatrix& source,
    const PackedLayout& layout,
    int row,
    int lane,
    std::byte* tile) {
  const auto* const codes = static_cast<const std::uint8_t*>(source.weight);
  const int groups = source.cols / source.group;
  for (int col = 0; col < layout.cols; ++col) {
    const float value = e4m3_to_float(codes[index_of(row, col, source.cols)]) *
        minifloat_scale(source, index_of(row, col / source.group, groups));
    store_float(tile, layout.type, layout.plain_index(col, lane), value);
  }
}

// Copies elements, or pairs of them, of `size` bytes to every 16th place.
template <std::size_t size>
void spread_row(const std::byte* from, int count, std::byte* to) {
  for (int idx = 0; idx < count; ++idx) {
    std::memcpy(to, from, size);
    from += size;
    to += kTileRows * size;
  }
}

void pack_plain_tile(
    const SourceMatrix& source,
    const PackedLayout& layout,
    int first_row,
    int num_rows,
    std::byte* tile) {
  const std::size_t size = size_of(layout.type);
  for (int lane = 0; lane < num_rows; ++lane) {
    if (source.format == SourceFormat::mxfp8) {
      widen_mxfp8_row(source, layout, first_row + lane, lane, tile);
      continue;
    }
    const std::byte* const row = static_cast<const std::byte*>(source.weight) +
        index_of(first_row + lane, 0, source.cols) * size;
    switch (layout.type) {
    case Float::f32:
      spread_row<4>(row, layout.cols, tile + 4 * lane);
      break;
    case Float::f16:
      spread_row<2>(row, layout.cols, tile + 2 * lane);
      break;
    case Float::bf16:
      spread_row<4>(row, layout.cols / 2, tile + 4 * lane);
      if (layout.cols % 2 != 0) {
        const int last = layout.cols - 1;
        std::memcpy(
            tile + layout.plain_index(last, lane) * size,
            row + static_cast<std::size_t>(last) * size,
            size);
      }
      break;
    }
  }
}

void pack_block_scales(
    const SourceMatrix& source,
    const PackedLayout& layout,
    int row,
    int lane,
    int group,
    std::byte* block) {
  const std::size_t from = index_of(row, group, layout.num_groups());
  const std::size_t size = size_of(layout.type);
  std::byte* const scale =
      block + layout.code_bytes() + static_cast<std::size_t>(lane) * size;
  if (layout.codes == Codes::fp4) {
    const std::uint16_t bits = fp4_scale_bits(source, from);
    std::memcpy(scale, &bits, sizeof(bits));
    return;
  }
  std::memcpy(
      scale, static_cast<const std::byte*>(source.scales) + from * size, size);
  if (layout.has_bias) {
    std::memcpy(
        scale + kTileRows * size,
        static_cast<const std::byte*>(source.biases) + from * size,
        size);
  }
}

void pack_row_codes(
    const SourceMatrix& source,
    const PackedLayout& layout,
    int row,
    int lane,
    std::byte* tile) {
  const CodeRow codes(source.weight, row, source.cols, source.bits);
  // 4-bit rows move a 32-bit word at a time: 8 columns.
  if (source.bits == 4) {
    const auto* words = static_cast<const std::byte*>(source.weight) +
        index_of(row, 0, source.cols) / 2;
    const int words_per_group = layout.group / 8;
    for (int word = 0; word < source.cols / 8; ++word) {
      std::uint32_t in;
      std::memcpy(&in, words + static_cast<std::size_t>(word) * 4, sizeof(in));
      std::uint32_t out = 0; // byte b: column b low, column b + 4 high
      for (unsigned byte = 0; byte < 4; ++byte) {
        out |= ((in >> (4 * byte)) & 15U) << (8 * byte);
        out |= ((in >> (4 * byte + 16)) & 15U) << (8 * byte + 4);
      }
      std::memcpy(
          tile +
              static_cast<std::size_t>(word / words_per_group) *
                  layout.block_bytes() +
              static_cast<std::size_t>(word % words_per_group * 64 + lane * 4),
          &out,
          sizeof(out));
    }
    return;
  }
  for (int col = 0; col < source.cols; ++col) {
    std::byte* const block = tile +
        static_cast<std::size_t>(col / layout.group) * layout.block_bytes();
    const CodePlace place = code_place(layout.codes, lane, col % layout.group);
    block[place.byte] |= static_cast<std::byte>(
        static_cast<unsigned>(codes[col]) << place.shift);
  }
}

} // namespace

std::optional<PackedLayout> packed_layout(const SourceMatrix& source) {
  PackedLayout layout{.rows = source.rows, .cols = source.cols};
  const auto grouped = [&](Codes codes, Float type, bool has_bias) {
    layout.codes = codes;
    layout.type = type;
    layout.group = source.group;
    layout.has_bias = has_bias;
    const bool known = source.group == 16 || source.group == 32 ||
        source.group == 64 || source.group == 128;
    return known && source.cols % source.group == 0 ? std::optional(layout)
                                                    : std::nullopt;
  };
  switch (source.format) {
  case SourceFormat::plain:
    layout.type = source.type;
    return layout;
  case SourceFormat::mxfp8:
    layout.type = Float::bf16;
    return source.bits == 8 && source.group > 0 &&
            source.cols % source.group == 0
        ? std::optional(layout)
        : std::nullopt;
  case SourceFormat::affine:
    if (source.bits < 2 || source.bits > 8 || source.bits == 7) {
      return std::nullopt;
    }
    return grouped(source.bits <= 4 ? Codes::u4 : Codes::u8, source.type, true);
  case SourceFormat::mxfp4:
  case SourceFormat::nvfp4:
    return source.bits == 4 ? grouped(Codes::fp4, Float::bf16, false)
                            : std::nullopt;
  }
  return std::nullopt;
}

void pack_tiles(
    const SourceMatrix& source,
    const PackedLayout& layout,
    int first_tile,
    int last_tile,
    std::byte* packed) {
  for (int tile_idx = first_tile; tile_idx < last_tile; ++tile_idx) {
    std::byte* const tile =
        packed + static_cast<std::size_t>(tile_idx) * layout.tile_bytes();
    const int first_row = tile_idx * kTileRows;
    const int num_rows = std::min(kTileRows, layout.rows - first_row);
    // 4-bit codes and elements are copied whole; all else is or-ed or has
    // missing rows or columns.
    const bool is_plain = layout.codes == Codes::plain;
    const bool is_whole = is_plain ? layout.cols % 2 == 0 : source.bits == 4;
    if (num_rows < kTileRows || !is_whole) {
      std::memset(tile, 0, layout.tile_bytes());
    }
    if (is_plain) {
      pack_plain_tile(source, layout, first_row, num_rows, tile);
      continue;
    }
    for (int lane = 0; lane < num_rows; ++lane) {
      pack_row_codes(source, layout, first_row + lane, lane, tile);
      for (int group = 0; group < layout.num_groups(); ++group) {
        pack_block_scales(
            source,
            layout,
            first_row + lane,
            lane,
            group,
            tile + static_cast<std::size_t>(group) * layout.block_bytes());
      }
    }
  }
}

void unpack_row(
    const PackedLayout& layout,
    const std::byte* packed,
    int row,
    float* out) {
  const std::byte* const tile =
      packed + static_cast<std::size_t>(row / kTileRows) * layout.tile_bytes();
  const int lane = row % kTileRows;
  if (layout.codes == Codes::plain) {
    for (int col = 0; col < layout.cols; ++col) {
      out[col] = load_float(tile, layout.type, layout.plain_index(col, lane));
    }
    return;
  }
  for (int group = 0; group < layout.num_groups(); ++group) {
    const std::byte* const block =
        tile + static_cast<std::size_t>(group) * layout.block_bytes();
    const std::byte* const scales = block + layout.code_bytes();
    const float scale =
        load_float(scales, layout.type, static_cast<std::size_t>(lane));
    const float bias = layout.has_bias
        ? load_float(
              scales, layout.type, kTileRows + static_cast<std::size_t>(lane))
        : 0.0F;
    for (int col = 0; col < layout.group; ++col) {
      const std::uint8_t code = read_code(layout, block, lane, col);
      const float value = layout.codes == Codes::fp4
          ? static_cast<float>(kFp4Values[code])
          : static_cast<float>(code);
      out[group * layout.group + col] = scale * value + bias;
    }
  }
}

void unpack_rows(
    const PackedLayout& layout,
    const std::byte* packed,
    const SourceMatrix& format,
    int first_row,
    int last_row,
    const UnpackTarget& target) {
  const auto row_bytes =
      index_of(1, 0, format.cols) * static_cast<std::size_t>(format.bits) / 8;
  for (int row = first_row; row < last_row; ++row) {
    const std::byte* const tile = packed +
        static_cast<std::size_t>(row / kTileRows) * layout.tile_bytes();
    const int lane = row % kTileRows;
    if (format.format == SourceFormat::plain) {
      const std::size_t size = size_of(layout.type);
      for (int col = 0; col < layout.cols; ++col) {
        std::memcpy(
            static_cast<std::byte*>(target.weight) +
                index_of(row, col, layout.cols) * size,
            tile + layout.plain_index(col, lane) * size,
            size);
      }
      continue;
    }
    auto* const codes = static_cast<std::uint8_t*>(target.weight) +
        static_cast<std::size_t>(row) * row_bytes;
    std::memset(codes, 0, row_bytes);
    for (int col = 0; col < layout.cols; ++col) {
      const int group = col / layout.group;
      const std::byte* const block =
          tile + static_cast<std::size_t>(group) * layout.block_bytes();
      const std::size_t bit =
          static_cast<std::size_t>(col) * static_cast<std::size_t>(format.bits);
      const unsigned code =
          unsigned{read_code(layout, block, lane, col % layout.group)}
          << (bit % 8);
      codes[bit / 8] |= static_cast<std::uint8_t>(code);
      if (code > 0xff) {
        codes[bit / 8 + 1] |= static_cast<std::uint8_t>(code >> 8);
      }
      if (col % layout.group != 0) {
        continue;
      }
      const std::size_t size = size_of(layout.type);
      const std::byte* const scale =
          block + layout.code_bytes() + static_cast<std::size_t>(lane) * size;
      const std::size_t to = index_of(row, group, layout.num_groups());
      if (layout.codes == Codes::fp4) {
        // Few scales: the search keeps the two formats' tables in one place.
        std::uint16_t bits;
        std::memcpy(&bits, scale, sizeof(bits));
        for (unsigned candidate = 0; candidate < 256; ++candidate) {
          const auto byte = static_cast<std::uint8_t>(candidate);
          const SourceMatrix one{.format = format.format, .scales = &byte};
          if (fp4_scale_bits(one, 0) == bits) {
            static_cast<std::uint8_t*>(target.scales)[to] = byte;
            break;
          }
        }
        continue;
      }
      std::memcpy(
          static_cast<std::byte*>(target.scales) + to * size, scale, size);
      std::memcpy(
          static_cast<std::byte*>(target.biases) + to * size,
          scale + kTileRows * size,
          size);
    }
  }
}

} // namespace qwen3_mlx::cpu
