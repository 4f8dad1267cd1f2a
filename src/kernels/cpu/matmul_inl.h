// SPDX-License-Identifier: MIT
// Tiles of 16 weight rows times rows of activations. Included once by each
// isa_*.cpp, inside the namespace of its vector type.
//
// int8:  acc += float(dot of the group) * (scale * x_scale), then
//        acc += bias * x_sum, group after group; then, for the fine groups,
//        acc += float(dot of second codes) * (scale * x_scale / kFineSteps).
// float: the columns one after another within each 64, then acc += sum.
// pairs: acc += first * first + second * second as the instruction does, pair
//        after pair.
// These orders hold for every number of rows. Memory: each weight byte is read
// from the cache once for every block of rows and from memory once for every
// kPanelRows; a decode step is bound by that.

/// Columns of one partial sum of the float path.
inline constexpr int kSumCols = 64;

// GCC 12 keeps all sums in registers only so: among 32 inlined, among 16 apart
// from what else the caller holds (AVX2: 100 GOP/s a core against 64).
#ifdef __AVX512F__
#define QWEN3_MLX_SUMS_INLINE inline
#else
#define QWEN3_MLX_SUMS_INLINE [[gnu::noinline]] inline
#endif

#ifdef QWEN3_MLX_BF16_DOTS
inline constexpr bool kHasBf16Pairs = true;
#else
inline constexpr bool kHasBf16Pairs = false;
#endif

// Adds what the second codes of a block's rows give.
template <Codes codes>
inline void add_fine_groups(
    const PackedLayout& layout,
    const QuantizedLayout& x_layout,
    const std::byte* tile,
    const std::byte* rows,
    F32* out) {
  std::int32_t num_fine;
  std::memcpy(&num_fine, rows + x_layout.num_fine_at(), sizeof(num_fine));
  const auto* fine =
      reinterpret_cast<const FineGroup*>(rows + x_layout.fine_groups_at());
  const auto* x =
      reinterpret_cast<const std::int8_t*>(rows + x_layout.second_codes_at());
  for (const FineGroup* const end = fine + num_fine; fine < end; ++fine) {
    const std::byte* const block =
        tile + static_cast<std::size_t>(fine->group) * layout.block_bytes();
    I32 dot = set1_i(-kCodeOffset<codes> * fine->code_sum);
    block_dots<codes, 1>(block, layout.group, x, &dot);
    const F32 scale = load_any(block + layout.code_bytes(), layout.type, 0);
    out[fine->row] =
        fma(to_float(dot), mul(scale, set1(fine->scale)), out[fine->row]);
    x += layout.group;
  }
}

// `rows` is a block of num_rows quantized rows.
template <Codes codes, int num_rows>
inline void tile_int8(
    const MatmulJob& job,
    const std::byte* tile,
    const std::byte* rows,
    F32* out) {
  const PackedLayout& layout = job.layout;
  const QuantizedLayout x_layout{layout.cols, layout.group, num_rows};
  const std::size_t num_groups = x_layout.num_groups();
  const std::size_t block_bytes = layout.block_bytes();
  const std::size_t code_bytes = layout.code_bytes();
  const int group_cols = layout.group;
  const Float type = layout.type;
  const auto* x = reinterpret_cast<const std::int8_t*>(rows);
  const auto* x_scales =
      reinterpret_cast<const float*>(rows + x_layout.scales_at());
  const std::size_t to_sums = x_layout.num_scales();
  const std::byte* block = tile;
  F32 acc[num_rows];
  for (int m = 0; m < num_rows; ++m) {
    acc[m] = set1(0);
  }
  for (std::size_t group = 0; group < num_groups; ++group) {
    I32 dots[num_rows];
    for (int m = 0; m < num_rows; ++m) {
      std::int32_t start = 0;
      if constexpr (kCodeOffset<codes> != 0) {
        std::memcpy(&start, x_scales + 2 * to_sums + m, sizeof(start));
        start *= -kCodeOffset<codes>;
      }
      dots[m] = set1_i(start);
    }
    block_dots<codes, num_rows>(block, group_cols, x, dots);
    const std::byte* const scales = block + code_bytes;
    const F32 scale = load_any(scales, type, 0);
    for (int m = 0; m < num_rows; ++m) {
      acc[m] = fma(to_float(dots[m]), mul(scale, set1(x_scales[m])), acc[m]);
    }
    if constexpr (codes != Codes::fp4) {
      const F32 bias = load_any(scales, type, kTileRows);
      for (int m = 0; m < num_rows; ++m) {
        acc[m] =
            fma(bias,
                set1(x_scales[to_sums + static_cast<std::size_t>(m)]),
                acc[m]);
      }
    }
    x += group_cols * num_rows;
    x_scales += num_rows;
    block += block_bytes;
  }
  for (int m = 0; m < num_rows; ++m) {
    out[m] = acc[m];
  }
  add_fine_groups<codes>(layout, x_layout, tile, rows, out);
}

// The first or second of two neighbouring columns of plain elements.
template <Float type>
QWEN3_MLX_INLINE F32 load_column(const std::byte* from, int which) {
  if constexpr (type == Float::bf16) {
    const I32 pairs = load_i(from);
    return which == 0 ? first_of_pairs(pairs) : second_of_pairs(pairs);
  }
  return load_any(from, type, static_cast<std::size_t>(which) * kTileRows);
}

template <Float type, int which, int num_rows, int num_tiles>
QWEN3_MLX_INLINE void add_column(
    const std::byte* const* weights,
    std::size_t at,
    const float* x,
    F32 (*sums)[num_rows]) {
  F32 w[num_tiles];
  for (int tile = 0; tile < num_tiles; ++tile) {
    w[tile] = load_column<type>(weights[tile] + at, which);
  }
  for (int m = 0; m < num_rows; ++m) {
    const F32 element = set1(x[m]);
    for (int tile = 0; tile < num_tiles; ++tile) {
      add_product(w[tile], element, sums[tile][m]);
    }
  }
}

// Adds the sums over `num_cols` <= 64 columns, an even number, of some tiles to
// acc. x are the elements of these columns.
template <Float type, int num_rows, int num_tiles>
QWEN3_MLX_SUMS_INLINE void float_block(
    const std::byte* const* weights,
    int num_cols,
    const float* x,
    F32 (*acc)[num_rows]) {
  constexpr std::size_t kTwoColumns = 2 * kTileRows * size_of(type);
  const auto end = static_cast<std::size_t>(num_cols / 2) * kTwoColumns;
  F32 sums[num_tiles][num_rows];
  for (int tile = 0; tile < num_tiles; ++tile) {
    for (int m = 0; m < num_rows; ++m) {
      sums[tile][m] = set1(0);
    }
  }
  for (std::size_t at = 0; at < end; at += kTwoColumns) {
    add_column<type, 0, num_rows, num_tiles>(weights, at, x, sums);
    add_column<type, 1, num_rows, num_tiles>(weights, at, x + num_rows, sums);
    x += 2 * num_rows;
  }
  for (int tile = 0; tile < num_tiles; ++tile) {
    for (int m = 0; m < num_rows; ++m) {
      acc[tile][m] = add(acc[tile][m], sums[tile][m]);
    }
  }
}

// Columns [first_col, first_col + num_cols) of a quantized tile as float32
// [num_cols][16].
inline void dequantize(
    const PackedLayout& layout,
    const std::byte* tile,
    int first_col,
    int num_cols,
    float* to) {
  float values[16];
  for (int code = 0; code < 16; ++code) {
    values[code] = static_cast<float>(kFp4Values[code]);
  }
  const int step = layout.codes == Codes::u8 ? 4 : 8;
  for (int col = first_col; col < first_col + num_cols; col += step) {
    const std::byte* const block = tile +
        static_cast<std::size_t>(col / layout.group) * layout.block_bytes();
    const std::byte* const scales = block + layout.code_bytes();
    const F32 scale = load_any(scales, layout.type, 0);
    const I32 packed = load_i(
        block + static_cast<std::size_t>(col % layout.group / step) * 64);
    const F32 bias =
        layout.has_bias ? load_any(scales, layout.type, kTileRows) : set1(0);
    for (int idx = 0; idx < step; ++idx) {
      F32 value;
      if (layout.codes == Codes::u8) {
        value = bits_as_float(packed, 8 * idx, 255);
      } else {
        const int shift = 8 * (idx % 4) + (idx < 4 ? 0 : 4);
        value = layout.codes == Codes::fp4 ? lookup16(values, packed, shift)
                                           : bits_as_float(packed, shift, 15);
      }
      store(to + (col - first_col + idx) * kLanes, fma(scale, value, bias));
    }
  }
}

template <int num_rows, int num_tiles>
inline void tiles_float(
    const MatmulJob& job,
    const std::byte* const* tiles,
    const float* x,
    F32 (*acc)[num_rows]) {
  const PackedLayout& layout = job.layout;
  alignas(64) float panels[num_tiles][kSumCols * kLanes];
  for (int tile = 0; tile < num_tiles; ++tile) {
    for (int m = 0; m < num_rows; ++m) {
      acc[tile][m] = set1(0);
    }
  }
  const int cols = layout.even_cols();
  for (int col = 0; col < cols; col += kSumCols, x += kSumCols * num_rows) {
    const int num_cols = cols - col < kSumCols ? cols - col : kSumCols;
    const std::byte* weights[num_tiles];
    for (int tile = 0; tile < num_tiles; ++tile) {
      if (layout.codes == Codes::plain) {
        weights[tile] = tiles[tile] +
            static_cast<std::size_t>(col * kTileRows) * size_of(layout.type);
      } else {
        dequantize(layout, tiles[tile], col, num_cols, panels[tile]);
        weights[tile] = reinterpret_cast<const std::byte*>(panels[tile]);
      }
    }
    switch (layout.codes == Codes::plain ? layout.type : Float::f32) {
    case Float::f32:
      float_block<Float::f32, num_rows, num_tiles>(weights, num_cols, x, acc);
      break;
    case Float::f16:
      float_block<Float::f16, num_rows, num_tiles>(weights, num_cols, x, acc);
      break;
    case Float::bf16:
      float_block<Float::bf16, num_rows, num_tiles>(weights, num_cols, x, acc);
      break;
    }
  }
}

#ifdef QWEN3_MLX_BF16_DOTS
template <int num_rows, int num_tiles>
inline void tiles_pairs(
    const MatmulJob& job,
    const std::byte* const* tiles,
    const std::int32_t* x,
    F32 (*acc)[num_rows]) {
  F32 sums[num_tiles][num_rows];
  for (int tile = 0; tile < num_tiles; ++tile) {
    for (int m = 0; m < num_rows; ++m) {
      sums[tile][m] = set1(0);
    }
  }
  const std::size_t end = job.layout.tile_bytes();
  for (std::size_t at = 0; at < end; at += 4 * kTileRows, x += num_rows) {
    I32 w[num_tiles];
    for (int tile = 0; tile < num_tiles; ++tile) {
      w[tile] = load_i(tiles[tile] + at);
    }
    for (int m = 0; m < num_rows; ++m) {
      const I32 pair = set1_i(x[m]);
      for (int tile = 0; tile < num_tiles; ++tile) {
        sums[tile][m] = dot_pairs(w[tile], pair, sums[tile][m]);
      }
    }
  }
  for (int tile = 0; tile < num_tiles; ++tile) {
    for (int m = 0; m < num_rows; ++m) {
      acc[tile][m] = sums[tile][m];
    }
  }
}
#endif

inline const std::byte* tile_at(const MatmulJob& job, int tile_idx) {
  return job.weights +
      static_cast<std::size_t>(tile_idx) * job.layout.tile_bytes();
}

// Rows of a block times one tile, before bias and the like.
template <int num_rows>
inline void sum_int8(
    const MatmulJob& job,
    const std::byte* tile,
    const std::byte* rows,
    F32* acc) {
  switch (job.layout.codes) {
  case Codes::u4:
    return tile_int8<Codes::u4, num_rows>(job, tile, rows, acc);
  case Codes::u8:
    return tile_int8<Codes::u8, num_rows>(job, tile, rows, acc);
  case Codes::fp4:
    return tile_int8<Codes::fp4, num_rows>(job, tile, rows, acc);
  case Codes::plain:
    break;
  }
}

template <int num_rows, int num_tiles>
inline void sum_floats(
    const MatmulJob& job,
    const std::byte* const* tiles,
    const std::byte* rows,
    F32 (*acc)[num_rows]) {
#ifdef QWEN3_MLX_BF16_DOTS
  if (job.form == RowForm::bf16_pairs) {
    return tiles_pairs<num_rows, num_tiles>(
        job, tiles, reinterpret_cast<const std::int32_t*>(rows), acc);
  }
#endif
  tiles_float<num_rows, num_tiles>(
      job, tiles, reinterpret_cast<const float*>(rows), acc);
}

// Rows of a block times one or two tiles. Where the registers hold the sums of
// two, a broadcast activation meets both.
template <int num_rows>
inline void sum_tiles(
    const MatmulJob& job,
    const int* tile_indices,
    int num_tiles,
    const std::byte* rows,
    F32 (*acc)[num_rows]) {
  const std::byte* const tiles[2] = {
      tile_at(job, tile_indices[0]), tile_at(job, tile_indices[num_tiles - 1])};
  if constexpr (num_rows <= kMaxRows) {
    if (job.form == RowForm::int8) {
      for (int tile = 0; tile < num_tiles; ++tile) {
        sum_int8<num_rows>(job, tiles[tile], rows, acc[tile]);
      }
      return;
    }
  }
  if constexpr (num_rows <= kMaxFloatRows) {
    if constexpr (2 * num_rows <= kSums) {
      if (num_tiles == 2) {
        return sum_floats<num_rows, 2>(job, tiles, rows, acc);
      }
    }
    for (int tile = 0; tile < num_tiles; ++tile) {
      sum_floats<num_rows, 1>(job, tiles + tile, rows, acc + tile);
    }
  }
}

// Asks for what the sums will meet, and where they go: rows lie apart, and
// nothing tells the processor of them before.
template <int num_rows>
inline void
fetch_outputs(const MatmulJob& job, int first_row, std::size_t first) {
  for (int m = 0; m < num_rows; ++m) {
    if (job.residual != nullptr) {
      __builtin_prefetch(
          static_cast<const std::byte*>(job.residual[first_row + m]) +
          first * size_of(job.residual_type));
    }
    __builtin_prefetch(
        static_cast<const std::byte*>(job.out[first_row + m]) +
            first * size_of(job.out_type),
        /* for writing */ 1);
  }
}

inline int outputs(const MatmulJob& job) {
  return job.up_tile_offset != 0 ? job.up_tile_offset * kTileRows
                                 : job.layout.rows;
}

// Adds the bias of outputs [first, first + count) to their sums.
template <int num_rows>
inline void add_bias(const MatmulJob& job, int first, int count, F32* sums) {
  if (job.bias == nullptr) {
    return;
  }
  const auto at = static_cast<std::size_t>(first);
  const F32 bias = count == kTileRows
      ? load_any(job.bias, job.bias_type, at)
      : load_part(job.bias, job.bias_type, at, count);
  for (int m = 0; m < num_rows; ++m) {
    sums[m] = add(sums[m], bias);
  }
}

// Finishes sums of a tile, and of its up tile if there is one, and writes them.
template <int num_rows>
inline void write_tile(
    const MatmulJob& job,
    int tile_idx,
    int first_row,
    F32* acc,
    F32* up) {
  const int first = tile_idx * kTileRows;
  const int rest = outputs(job) - first;
  const int count = rest < kTileRows ? rest : kTileRows;
  const auto at = static_cast<std::size_t>(first);
  add_bias<num_rows>(job, first, count, acc);
  if (up != nullptr) {
    add_bias<num_rows>(job, first + outputs(job), count, up);
    for (int m = 0; m < num_rows; ++m) {
      acc[m] = mul(silu(acc[m]), up[m]);
    }
  }
  for (int m = 0; m < num_rows; ++m) {
    if (job.residual != nullptr) {
      const void* const residual = job.residual[first_row + m];
      acc[m] =
          add(acc[m],
              count == kTileRows
                  ? load_any(residual, job.residual_type, at)
                  : load_part(residual, job.residual_type, at, count));
    }
    void* const out = job.out[first_row + m];
    if (count == kTileRows) {
      store_any(out, job.out_type, at, acc[m]);
    } else {
      store_part(out, job.out_type, at, count, acc[m]);
    }
  }
}

// One tile with its up tile, or one or two tiles, times a block of rows.
template <int num_rows>
inline void
finish_tiles(const MatmulJob& job, int tile_idx, int num_tiles, int first_row) {
  const bool gated = job.up_tile_offset != 0;
  const int tiles[2] = {tile_idx, tile_idx + (gated ? job.up_tile_offset : 1)};
  for (int tile = 0; tile < num_tiles; ++tile) {
    fetch_outputs<num_rows>(
        job,
        first_row,
        static_cast<std::size_t>((tile_idx + tile) * kTileRows));
  }
  F32 acc[2][num_rows];
  sum_tiles<num_rows>(
      job,
      tiles,
      gated ? 2 : num_tiles,
      job.blocks[first_row / job.block_rows],
      acc);
  write_tile<num_rows>(
      job, tile_idx, first_row, acc[0], gated ? acc[1] : nullptr);
  if (num_tiles == 2) {
    write_tile<num_rows>(job, tile_idx + 1, first_row, acc[1], nullptr);
  }
}

template <int num_rows>
inline void finish_rows(
    const MatmulJob& job,
    int tile_idx,
    int num_tiles,
    int row,
    int count) {
  if (count == num_rows) {
    return finish_tiles<num_rows>(job, tile_idx, num_tiles, row);
  }
  if constexpr (num_rows > 1) {
    finish_rows<num_rows - 1>(job, tile_idx, num_tiles, row, count);
  }
}

void matmul_tiles(const MatmulJob& job, int first_tile, int last_tile) {
  constexpr int kMostRows = kMaxRows > kMaxFloatRows ? kMaxRows : kMaxFloatRows;
  const int step = job.block_rows;
  const int panel_rows = step < kPanelRows ? kPanelRows / step * step : step;
  const int tile_step =
      job.form == RowForm::int8 || job.up_tile_offset != 0 ? 1 : 2;
  for (int panel = 0; panel < job.num_rows; panel += panel_rows) {
    const int panel_end =
        job.num_rows - panel < panel_rows ? job.num_rows : panel + panel_rows;
    for (int tile = first_tile; tile < last_tile; tile += tile_step) {
      const int num_tiles =
          last_tile - tile < tile_step ? last_tile - tile : tile_step;
      for (int row = panel; row < panel_end; row += step) {
        const int count = panel_end - row < step ? panel_end - row : step;
        finish_rows<kMostRows>(job, tile, num_tiles, row, count);
      }
    }
  }
}
