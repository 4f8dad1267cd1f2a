// SPDX-License-Identifier: MIT
// A checkpoint for tests that talk: tiny, random, with tokenizer and template.
#pragma once

#include <filesystem>

namespace qwen3_mlx::testing {

/// Writes a random two-layer qwen3 checkpoint whose tokenizer knows single
/// bytes, "hello" and the special tokens <|end|>, <|im_start|>, <|im_end|>.
/// It never stops by itself: nothing names an end of text.
void write_tiny_chat_model(const std::filesystem::path& folder);

} // namespace qwen3_mlx::testing
