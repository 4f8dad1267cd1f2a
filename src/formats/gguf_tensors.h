// SPDX-License-Identifier: MIT
// The tensor table of GGUF files.
#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

#include "base/file.h"
#include "formats/gguf.h"
#include "formats/gguf_cursor.h"

namespace qwen3_mlx::gguf {

/// Reads one row of the table; its offset is still relative to the data. Throws
/// TensorError for an unknown type and for shapes that no tensor has.
GgufTensor read_tensor(Cursor& in, const std::filesystem::path& path);

/// Makes the offsets absolute and checks that each tensor lies aligned in the
/// file and on no other's bytes.
void place_tensors(
    std::vector<GgufTensor>& tensors,
    std::uint64_t data_start,
    std::uint64_t alignment,
    const File& file);

} // namespace qwen3_mlx::gguf
