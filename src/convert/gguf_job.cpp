// SPDX-License-Identifier: MIT
#include "convert/gguf_job.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "convert/ggml_quantizer.h"
#include "convert/quantizer.h"
#include "formats/checked.h"
#include "qwen3_mlx/error.h"

namespace qwen3_mlx {

GgufJob::GgufJob(
    std::string name,
    SourceRows source,
    GgmlType type,
    std::int64_t heads)
    : source_(std::move(source)), spec_{
                                      std::move(name),
                                      type,
                                      source_.shape()} {
  set_heads(heads);
}

void GgufJob::set_heads(std::int64_t heads) {
  if (heads == 0) {
    return;
  }
  const auto count = static_cast<std::uint64_t>(heads);
  const auto n_rows = source_.n_rows();
  if (n_rows % (2 * count) != 0) {
    const auto& tensor = source_.tensor();
    throw TensorError(
        tensor.path(),
        printable(tensor.source_name),
        "has " + std::to_string(n_rows) + " rows, expected a multiple of 2 * " +
            std::to_string(heads) + " heads");
  }
  head_dim_ = n_rows / count;
}

std::uint64_t GgufJob::rows_per_chunk() const {
  const auto rows = source_.rows_per_chunk();
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
  source_.read(first, count, scratch.source);
  const auto& values = scratch.source.values;
  const auto& tensor = source_.tensor();
  // What float16 cannot hold would become infinite, silently.
  const auto block = ggml_block(spec_.type);
  const float largest = spec_.type == GgmlType::f16 || block.n_elements > 1
      ? 65504.0f
      : HUGE_VALF;
  if (!(largest_magnitude(values.data(), values.size()) <= largest)) {
    const float value =
        *std::find_if(values.begin(), values.end(), [&](float each) {
          return !(std::fabs(each) <= largest);
        });
    throw TensorError(
        tensor.path(),
        printable(tensor.source_name),
        "holds " + std::to_string(value) + ", which " +
            std::string(block.name) + " cannot; use --gguf-type bf16");
  }
  const auto columns = static_cast<std::size_t>(source_.n_columns());
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
