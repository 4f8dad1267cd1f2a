// SPDX-License-Identifier: MIT
#include "convert/gguf_job.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "convert/ggml_quantizer.h"
#include "formats/checked.h"
#include "qwen3_mlx/error.h"

namespace qwen3_mlx {
namespace {

// As in tensor_job.cpp: 4 MiB of float32.
constexpr std::uint64_t chunk_elements = std::uint64_t{1} << 20;

} // namespace

GgufJob::GgufJob(
    std::string name,
    const StoredTensor& tensor,
    GgmlType type,
    std::int64_t heads)
    : spec_{std::move(name), type, tensor.shape}, tensor_(&tensor),
      n_bytes_(tensor.n_bytes()) {
  // A vector's elements are rows of one.
  n_columns_ = tensor.shape.size() < 2
      ? 1
      : static_cast<std::uint64_t>(tensor.shape.back());
  n_rows_ = 1;
  for (const auto dim : tensor.shape) {
    n_rows_ *= static_cast<std::uint64_t>(dim);
  }
  n_rows_ /= n_columns_;
  set_heads(heads);
}

GgufJob::GgufJob(
    std::string name,
    StoredMatrix matrix,
    GgmlType type,
    std::int64_t heads)
    : spec_{std::move(name), type, matrix.shape()}, matrix_(std::move(matrix)),
      n_rows_(matrix_->n_rows()), n_columns_(matrix_->n_columns()),
      n_bytes_(matrix_->n_bytes()) {
  set_heads(heads);
}

void GgufJob::set_heads(std::int64_t heads) {
  if (heads == 0) {
    return;
  }
  const auto count = static_cast<std::uint64_t>(heads);
  if (n_rows_ % (2 * count) != 0) {
    const auto& tensor = matrix_ ? matrix_->weight() : *tensor_;
    throw TensorError(
        tensor.path(),
        printable(tensor.source_name),
        "has " + std::to_string(n_rows_) +
            " rows, expected a multiple of 2 * " + std::to_string(heads) +
            " heads");
  }
  head_dim_ = n_rows_ / count;
}

std::uint64_t GgufJob::rows_per_chunk() const {
  const auto rows = std::max<std::uint64_t>(1, chunk_elements / n_columns_);
  // Whole heads, whose rows change places.
  return head_dim_ == 0
      ? rows
      : std::max<std::uint64_t>(1, rows / head_dim_) * head_dim_;
}

/// Rows of a head lie as (half, pair) here, and as (pair, half) in files for
/// llama.cpp's interleaved rotary embeddings.
std::uint64_t GgufJob::row_in_file(std::uint64_t row) const {
  if (head_dim_ == 0) {
    return row;
  }
  const auto in_head = row % head_dim_;
  const auto n_pairs = head_dim_ / 2;
  return row - in_head + in_head % n_pairs * 2 + in_head / n_pairs;
}

void GgufJob::run(std::uint64_t first, std::uint64_t count, Scratch& scratch)
    const {
  auto& values = scratch.values;
  values.resize(static_cast<std::size_t>(count * n_columns_));
  const auto& tensor = matrix_ ? matrix_->weight() : *tensor_;
  if (matrix_) {
    matrix_->read_rows(first, count, values.data(), scratch.source);
  } else {
    scratch.source.resize(
        static_cast<std::size_t>(tensor.n_bytes() / n_rows_ * count));
    read_stored_rows(tensor, n_rows_, first, count, scratch.source.data());
    widen(tensor, scratch.source.data(), values.size(), values.data());
  }
  // What float16 cannot hold would become infinite, silently.
  const auto block = ggml_block(spec_.type);
  const float largest = spec_.type == GgmlType::f16 || block.n_elements > 1
      ? 65504.0f
      : HUGE_VALF;
  for (const float value : values) {
    if (!(std::fabs(value) <= largest)) {
      throw TensorError(
          tensor.path(),
          printable(tensor.source_name),
          "holds " + std::to_string(value) + ", which " +
              std::string(block.name) + " cannot; use --gguf-type bf16");
    }
  }
  const auto columns = static_cast<std::size_t>(n_columns_);
  const auto row_bytes = columns / block.n_elements * block.n_bytes;
  scratch.out.resize(row_bytes * static_cast<std::size_t>(count));
  for (std::uint64_t row = 0; row < count; ++row) {
    const auto to = row_in_file(first + row) - first;
    quantize_ggml_row(
        spec_.type,
        std::span(values).subspan(
            static_cast<std::size_t>(row) * columns, columns),
        scratch.out.data() + static_cast<std::size_t>(to) * row_bytes);
  }
  file_->write(
      offset_ + first * row_bytes, scratch.out.data(), scratch.out.size());
}

} // namespace qwen3_mlx
