// SPDX-License-Identifier: MIT
// A tiny checkpoint as a GGUF file, its tensors as float32: named, ordered and
// (architecture llama) permuted as llama.cpp's converter does.
#pragma once

#include <filesystem>

#include "testing/tiny_checkpoint.h"

namespace qwen3_mlx::testing {

/// Architectures llama, qwen2, qwen3 and qwen3_moe with rope type default,
/// linear or yarn, without a tokenizer.
void write_tiny_gguf(
    const TinyCase& tiny_case,
    const std::filesystem::path& path);

} // namespace qwen3_mlx::testing
