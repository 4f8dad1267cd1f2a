// SPDX-License-Identifier: MIT
// Reading rows of a file into their final memory, converting on the way.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/file.h"
#include "mlx/dtype.h"
#include "weights/checkpoint.h"

namespace qwen3_mlx {
namespace mx = mlx::core;

/// What happens to the elements of a row.
enum class RowCodec {
  raw,    ///< Bytes as they are.
  floats, ///< f32, f16, bf16 to another of them.
  q4_0,   ///< ggml blocks of 32 to packed nibbles, scales and biases.
  q4_1,
  q8_0,
  mxfp4,    ///< ggml blocks of 32 to packed nibbles and scales.
  ggml,     ///< Other ggml blocks to floats.
  imported, ///< What a RowSource gives, to floats.
  random,   ///< No file: uniform noise.
};

/// Where rows of one array go.
struct RowTarget {
  std::byte* data = nullptr;
  std::size_t row_bytes = 0;
  mx::Dtype dtype = mx::float32;
};

/// Rows that lie after each other in a file and in memory.
struct RowCopy {
  std::string tensor; ///< For messages: the name in the file.
  std::shared_ptr<const File> file;
  std::uint64_t offset = 0;
  std::uint64_t n_rows = 0;
  std::uint64_t row_elements = 0;
  std::uint64_t row_bytes = 0; ///< In the file.
  RowCodec codec = RowCodec::raw;
  StoredType type = StoredType::other;   ///< For floats.
  std::optional<GgmlType> ggml_type;     ///< For ggml.
  std::shared_ptr<const RowSource> rows; ///< For imported.
  std::uint64_t first_row = 0;           ///< For imported: of those rows.
  /// The array; for ggml blocks: nibbles or bytes, scales, biases.
  std::array<RowTarget, 3> targets;
  /// See StoredTensor.
  std::int64_t permuted_head_dim = 0;
  /// For random: half the width, and the middle, of the noise.
  float random_scale = 0.0f;
  float random_center = 0.0f;
  std::uint32_t random_mask = UINT32_MAX; ///< Of words of packed codes.
  std::uint64_t seed = 0;

  std::uint64_t n_bytes() const {
    return n_rows * row_bytes;
  }
};

/// Rows [begin, end) of a copy. Rows of heads that are permuted stay together:
/// then both are multiples of permuted_head_dim, or the copy's end.
RowCopy rows_of(const RowCopy& copy, std::uint64_t begin, std::uint64_t end);

/// Copies and what belongs to them. Both functions are called once, on any
/// thread: before the first of the copies begins, and when all have ended.
struct CopyStage {
  std::vector<RowCopy> copies; ///< At least one.
  std::function<void()> begin;
  std::function<void()> end;
};

/// Performs the copies of all stages as run_copies() does. Several stages are
/// under way at once: one begins when the one `depth` places ahead of it has
/// ended.
void run_stages(
    const std::vector<CopyStage>& stages,
    std::size_t depth,
    int n_threads,
    const std::function<void(std::uint64_t done, std::uint64_t total)>&
        progress);

/// Performs all copies on `n_threads` threads, the calling one among them, and
/// reports bytes done on the calling one. Throws the first error: TensorError
/// for a file that ends early or a scale that float16 does not hold.
void run_copies(
    const std::vector<RowCopy>& copies,
    int n_threads,
    const std::function<void(std::uint64_t done, std::uint64_t total)>&
        progress);

} // namespace qwen3_mlx
