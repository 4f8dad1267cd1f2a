// SPDX-License-Identifier: MIT
// Rows of one stored tensor: its bytes, and the numbers they mean.
#pragma once

#include <cstddef>
#include <cstdint>

#include "weights/checkpoint.h"

namespace qwen3_mlx {

/// Reads the bytes of rows [first, first + count) of a tensor of `n_rows` rows
/// as the file has them, save that permuted rows of heads are put in order.
void read_stored_rows(
    const StoredTensor& tensor,
    std::uint64_t n_rows,
    std::uint64_t first,
    std::uint64_t count,
    std::byte* out);

/// Numbers of `tensor`'s type at `from` as float32; see is_readable().
void widen(
    const StoredTensor& tensor,
    const std::byte* from,
    std::size_t n_elements,
    float* out);

/// Whether the tensor means numbers: a float type, ggml's blocks, or imported.
bool is_readable(const StoredTensor& tensor);

} // namespace qwen3_mlx
