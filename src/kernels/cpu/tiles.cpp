// SPDX-License-Identifier: MIT
#include "kernels/cpu/tiles.h"

#include <algorithm>

#include "kernels/cpu/isa.h"
#include "kernels/cpu/packed_matrix.h"
#include "kernels/cpu/views.h"
#include "kernels/mlx_internals.h"
#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "qwen3_mlx/error.h"

namespace qwen3_mlx::cpu {

namespace {

SourceFormat source_format(QuantMode mode) {
  switch (mode) {
  case QuantMode::none:
    return SourceFormat::plain;
  case QuantMode::affine:
    return SourceFormat::affine;
  case QuantMode::mxfp4:
    return SourceFormat::mxfp4;
  case QuantMode::mxfp8:
    return SourceFormat::mxfp8;
  case QuantMode::nvfp4:
    return SourceFormat::nvfp4;
  }
  return SourceFormat::plain;
}

// Shape and format of one matrix; no pointers yet.
std::optional<SourceMatrix> describe(const Matrix& matrix) {
  SourceMatrix source{
      .rows = matrix.out_dim(),
      .cols = matrix.in_dim(),
      .format = source_format(matrix.format.mode),
      .bits = matrix.format.bits,
      .group = matrix.format.group_size};
  const mx::array& floats =
      matrix.format.mode == QuantMode::affine ? *matrix.scales : matrix.weight;
  if (source.format == SourceFormat::plain ||
      source.format == SourceFormat::affine) {
    const auto type = float_type(floats.dtype());
    if (!type) {
      return std::nullopt;
    }
    source.type = *type;
  }
  return source;
}

const std::byte*
slice_of(const mx::array& array, std::size_t num_slices, std::size_t idx) {
  return array.data<std::byte>() + array.nbytes() / num_slices * idx;
}

} // namespace

Runtime::Runtime(int num_threads, bool is_exact)
    : pool(num_threads), kernels(select_kernels()), exact(is_exact) {}

std::optional<Matrix>
make_tiled(const Matrix& source, const std::shared_ptr<Runtime>& runtime) {
  const auto described = describe(source);
  if (!described) {
    return std::nullopt;
  }
  const auto layout = packed_layout(*described);
  if (!layout || layout->n_bytes() == 0) {
    return std::nullopt;
  }
  const int num_matrices =
      source.weight.ndim() == 3 ? source.weight.shape(0) : 0;
  const auto tiles = std::make_shared<Tiles>(
      Tiles{*layout, num_matrices, source.format, runtime});
  return Matrix{
      runtime->arena.allocate(
          std::max(1, num_matrices) * layout->num_tiles(),
          static_cast<int>(layout->tile_bytes())),
      std::nullopt,
      std::nullopt,
      source.format,
      tiles};
}

void fill_tiles(const Matrix& source, const Matrix& tiled) {
  constexpr int kTilesPerChunk = 4;
  const Tiles& tiles = *tiled.tiles;
  const auto count = static_cast<std::size_t>(std::max(1, tiles.num_matrices));
  auto weight = tiled.weight;
  auto* const packed = weight.data<std::byte>();
  const int chunks =
      (tiles.layout.num_tiles() + kTilesPerChunk - 1) / kTilesPerChunk;
  tiles.runtime->pool.parallel_for(
      chunks * static_cast<int>(count), [&](int unit) {
        const auto idx = static_cast<std::size_t>(unit / chunks);
        const int first = unit % chunks * kTilesPerChunk;
        SourceMatrix one = *describe(source);
        one.weight = slice_of(source.weight, count, idx);
        if (source.scales) {
          one.scales = slice_of(*source.scales, count, idx);
        }
        if (source.biases) {
          one.biases = slice_of(*source.biases, count, idx);
        }
        pack_tiles(
            one,
            tiles.layout,
            first,
            std::min(tiles.layout.num_tiles(), first + kTilesPerChunk),
            packed + idx * tiles.layout.n_bytes());
      });
}

Matrix tiled_rows(const Matrix& w, int begin, int n) {
  const Tiles& tiles = *w.tiles;
  if (begin % kTileRows == 0) {
    auto part = std::make_shared<Tiles>(tiles);
    part->layout.rows = n;
    const int first = begin / kTileRows;
    return {
        mx::slice(
            w.weight,
            {first, 0},
            {first + part->layout.num_tiles(), w.weight.shape(1)}),
        std::nullopt,
        std::nullopt,
        w.format,
        std::move(part)};
  }
  const int cols = tiles.layout.cols;
  mx::array plain = mx::zeros({n, cols}, mx::float32);
  plain.eval();
  for (int row = 0; row < n; ++row) {
    unpack_row(
        tiles.layout,
        w.weight.data<std::byte>(),
        begin + row,
        plain.data<float>() +
            static_cast<std::size_t>(row) * static_cast<std::size_t>(cols));
  }
  return {plain, std::nullopt, std::nullopt, {}, nullptr};
}

PackedView view(const Matrix& w) {
  return {w.tiles->layout, w.weight.data<std::byte>()};
}

} // namespace qwen3_mlx::cpu
