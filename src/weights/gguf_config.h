// SPDX-License-Identifier: MIT
// A GGUF file's metadata as the config.json that the same model would have.
#pragma once

#include "formats/gguf_parts.h"
#include "qwen3_mlx/config.h"

namespace qwen3_mlx {

/// Architectures llama, qwen2, qwen2moe, qwen3 and qwen3moe. Throws FieldError
/// that names the metadata key.
Config config_from_gguf(const GgufParts& parts);

} // namespace qwen3_mlx
