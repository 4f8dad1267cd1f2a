// SPDX-License-Identifier: MIT
// Readers of the files a tokenizer comes in.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include "tokenizer/definition.h"

namespace qwen3_mlx {

/// Reads a tokenizer.json that holds byte-level BPE. Truncation and padding in
/// it are left alone: they belong to batches of training, not to encoding.
TokenizerDefinition read_tokenizer_json(const std::filesystem::path& file);

/// The same for the text of a file; `file` is only named in errors.
TokenizerDefinition
parse_tokenizer_json(const std::filesystem::path& file, std::string_view text);

/// The same without the fast way for vocabulary and merges; for tests.
TokenizerDefinition parse_tokenizer_json_plainly(
    const std::filesystem::path& file,
    std::string_view text);

/// Reads tokenizer.ggml.* of a GGUF file, and treats text as Python
/// `tokenizers` does for the model family that "tokenizer.ggml.pre" names.
TokenizerDefinition read_tokenizer_gguf(const std::filesystem::path& file);

/// Applies tokenizer_config.json, special_tokens_map.json, added_tokens.json
/// and config.json of `folder`, as far as they are there: bos, eos, pad, tokens
/// that tokenizer.json lacks, and the model's vocab_size.
void apply_config_files(
    const std::filesystem::path& folder,
    TokenizerDefinition& definition);

/// Adds an added token to the vocabulary and the list. `field` is where it
/// comes from, for errors: no content, an id or content taken by another token.
void add_token(
    const std::filesystem::path& file,
    const std::string& field,
    AddedToken token,
    TokenizerDefinition& definition);

} // namespace qwen3_mlx
