// SPDX-License-Identifier: MIT
// The checkpoint that a conversion reads.
#pragma once

#include <filesystem>

#include "qwen3_mlx/model_args.h"
#include "weights/checkpoint.h"

namespace qwen3_mlx {

struct ConvertSource {
  ModelArgs args;
  Checkpoint checkpoint;
};

/// Throws InvalidArgument where `to` is or holds `from` or a file of it, which
/// replacing `to` would remove, and what reading config and headers throws.
ConvertSource
open_source(const std::filesystem::path& from, const std::filesystem::path& to);

} // namespace qwen3_mlx
