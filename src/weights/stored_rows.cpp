// SPDX-License-Identifier: MIT
#include "weights/stored_rows.h"

#include <algorithm>
#include <cstring>

#include "base/half.h"
#include "formats/checked.h"
#include "formats/ggml_dequantize.h"
#include "qwen3_mlx/error.h"

namespace qwen3_mlx {
namespace {

bool is_float(StoredType type) {
  return type == StoredType::f32 || type == StoredType::f16 ||
      type == StoredType::bf16;
}

/// Row of the file that belongs at `row`: llama.cpp stores the rows of a head
/// as (pair, half), they belong as (half, pair).
std::uint64_t stored_row(const StoredTensor& tensor, std::uint64_t row) {
  if (tensor.permuted_head_dim == 0) {
    return row;
  }
  const auto head_dim = static_cast<std::uint64_t>(tensor.permuted_head_dim);
  const auto in_head = row % head_dim;
  const auto half = in_head / (head_dim / 2);
  const auto pair = in_head % (head_dim / 2);
  return row - in_head + 2 * pair + half;
}

} // namespace

bool is_readable(const StoredTensor& tensor) {
  return is_float(tensor.type) || tensor.ggml_type.has_value() ||
      tensor.rows != nullptr;
}

void widen(
    const StoredTensor& tensor,
    const std::byte* from,
    std::size_t n_elements,
    float* out) {
  if (tensor.ggml_type) {
    dequantize_ggml(*tensor.ggml_type, from, n_elements, out);
    return;
  }
  if (tensor.type == StoredType::f32) {
    std::memcpy(out, from, n_elements * sizeof(float));
    return;
  }
  // Two loops, so that each becomes vector code.
  const auto each = [&](auto to_float) {
    for (std::size_t idx = 0; idx < n_elements; ++idx) {
      std::uint16_t bits;
      std::memcpy(&bits, from + idx * sizeof(bits), sizeof(bits));
      out[idx] = to_float(bits);
    }
  };
  if (tensor.type == StoredType::f16) {
    each([](std::uint16_t bits) { return f16_to_float(bits); });
  } else {
    each([](std::uint16_t bits) { return bf16_to_float(bits); });
  }
}

void read_stored_rows(
    const StoredTensor& tensor,
    std::uint64_t n_rows,
    std::uint64_t first,
    std::uint64_t count,
    std::byte* out) {
  const auto row_bytes = tensor.n_bytes() / n_rows;
  const auto rows_per_piece = n_rows / tensor.pieces.size();
  const auto read = [&](std::uint64_t row, std::uint64_t n, std::byte* to) {
    const auto& piece = tensor.pieces[row / rows_per_piece];
    const auto offset = piece.offset + row % rows_per_piece * row_bytes;
    try {
      piece.file->read(offset, static_cast<std::size_t>(n * row_bytes), to);
    } catch (const FileError& error) {
      const auto prefix = error.path().string().size() + 2;
      throw TensorError(
          error.path(),
          printable(tensor.source_name),
          "the file " + std::string(error.what()).substr(prefix));
    }
  };
  const auto end = first + count;
  while (first < end) {
    // Permuted rows lie apart, all others follow each other in a piece.
    const auto n = tensor.permuted_head_dim != 0
        ? 1
        : std::min(end - first, rows_per_piece - first % rows_per_piece);
    read(stored_row(tensor, first), n, out);
    out += n * row_bytes;
    first += n;
  }
}

} // namespace qwen3_mlx
