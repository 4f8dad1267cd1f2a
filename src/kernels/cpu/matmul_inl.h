// SPDX-License-Identifier: MIT
// Tiles of 16 weight rows times rows of activations. Included once by each
// isa_*.cpp, inside the namespace of its vector type.
//
// int8:  acc += float(dot of the group) * (scale * x_scale), then
//        acc += bias * x_sum, group after group; then, for the fine groups,
//        acc += float(dot of second codes) * (scale * x_scale / kFineSteps).
// float: within each 64 columns even and odd columns are summed apart, then
//        acc += even + odd.
// Both orders hold for every number of rows. Memory: each weight byte is read
// from the cache once for every kMaxRows rows and from memory once for every
// kPanelRows; a decode step is bound by that.

/// Columns of one partial sum of the float path.
inline constexpr int kSumCols = 64;

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

// Partial sums over `num_cols` <= 64 columns from `first_col` of tile elements
// at `weights`, added to acc.
template <Float type, int num_rows>
inline void float_block(
    const std::byte* weights,
    int num_cols,
    const float* const* x,
    int first_col,
    F32* acc) {
  F32 even[num_rows];
  F32 odd[num_rows];
  for (int m = 0; m < num_rows; ++m) {
    even[m] = odd[m] = set1(0);
  }
  int col = 0;
  for (; col + 2 <= num_cols; col += 2) {
    const auto at = static_cast<std::size_t>(col) * kTileRows;
    const F32 w0 = load_any(weights, type, at);
    const F32 w1 = load_any(weights, type, at + kTileRows);
    for (int m = 0; m < num_rows; ++m) {
      even[m] = fma(w0, set1(x[m][first_col + col]), even[m]);
      odd[m] = fma(w1, set1(x[m][first_col + col + 1]), odd[m]);
    }
  }
  if (col < num_cols) {
    const F32 w =
        load_any(weights, type, static_cast<std::size_t>(col) * kTileRows);
    for (int m = 0; m < num_rows; ++m) {
      even[m] = fma(w, set1(x[m][first_col + col]), even[m]);
    }
  }
  for (int m = 0; m < num_rows; ++m) {
    acc[m] = add(acc[m], add(even[m], odd[m]));
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

template <int num_rows>
inline void tile_float(
    const MatmulJob& job,
    const std::byte* tile,
    const float* const* x,
    F32* acc) {
  const PackedLayout& layout = job.layout;
  alignas(64) float panel[kSumCols * kLanes];
  for (int m = 0; m < num_rows; ++m) {
    acc[m] = set1(0);
  }
  for (int col = 0; col < layout.cols; col += kSumCols) {
    const int num_cols =
        layout.cols - col < kSumCols ? layout.cols - col : kSumCols;
    if (layout.codes != Codes::plain) {
      dequantize(layout, tile, col, num_cols, panel);
      float_block<Float::f32, num_rows>(
          reinterpret_cast<const std::byte*>(panel), num_cols, x, col, acc);
      continue;
    }
    const std::byte* const weights =
        tile + static_cast<std::size_t>(col * kTileRows) * size_of(layout.type);
    switch (layout.type) {
    case Float::f32:
      float_block<Float::f32, num_rows>(weights, num_cols, x, col, acc);
      break;
    case Float::f16:
      float_block<Float::f16, num_rows>(weights, num_cols, x, col, acc);
      break;
    case Float::bf16:
      float_block<Float::bf16, num_rows>(weights, num_cols, x, col, acc);
      break;
    }
  }
}

// Rows [first_row, first_row + num_rows) of one tile, before bias and the like.
template <int num_rows>
inline void
tile_rows(const MatmulJob& job, int tile_idx, int first_row, F32* acc) {
  const std::byte* const tile = job.weights +
      static_cast<std::size_t>(tile_idx) * job.layout.tile_bytes();
  if (job.quantized == nullptr) {
    tile_float<num_rows>(job, tile, job.floats + first_row, acc);
    return;
  }
  const std::byte* const rows = job.quantized[first_row / job.block_rows];
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

template <int num_rows>
inline void finish_tile(const MatmulJob& job, int tile_idx, int first_row) {
  const bool gated = job.up_tile_offset != 0;
  const int total_rows =
      gated ? job.up_tile_offset * kTileRows : job.layout.rows;
  const int first = tile_idx * kTileRows;
  const int count =
      total_rows - first < kTileRows ? total_rows - first : kTileRows;
  const auto at = static_cast<std::size_t>(first);
  fetch_outputs<num_rows>(job, first_row, at);
  F32 acc[num_rows];
  tile_rows<num_rows>(job, tile_idx, first_row, acc);
  const auto add_bias = [&](int from, F32* sums) {
    if (job.bias == nullptr) {
      return;
    }
    const auto index = static_cast<std::size_t>(from);
    const F32 bias = count == kTileRows
        ? load_any(job.bias, job.bias_type, index)
        : load_part(job.bias, job.bias_type, index, count);
    for (int m = 0; m < num_rows; ++m) {
      sums[m] = add(sums[m], bias);
    }
  };
  add_bias(first, acc);
  if (gated) {
    F32 up[num_rows];
    tile_rows<num_rows>(job, tile_idx + job.up_tile_offset, first_row, up);
    add_bias(first + total_rows, up);
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

template <int num_rows = kMaxRows>
inline void
finish_rows(const MatmulJob& job, int tile_idx, int first_row, int count) {
  if (count == num_rows) {
    return finish_tile<num_rows>(job, tile_idx, first_row);
  }
  if constexpr (num_rows > 1) {
    finish_rows<num_rows - 1>(job, tile_idx, first_row, count);
  }
}

void matmul_tiles(const MatmulJob& job, int first_tile, int last_tile) {
  const int step = job.quantized != nullptr ? job.block_rows : kMaxRows;
  const int panel_rows = step < kPanelRows ? kPanelRows / step * step : step;
  for (int panel = 0; panel < job.num_rows; panel += panel_rows) {
    const int panel_end =
        job.num_rows - panel < panel_rows ? job.num_rows : panel + panel_rows;
    for (int tile_idx = first_tile; tile_idx < last_tile; ++tile_idx) {
      for (int row = panel; row < panel_end; row += step) {
        const int count = panel_end - row < step ? panel_end - row : step;
        finish_rows(job, tile_idx, row, count);
      }
    }
  }
}
