// SPDX-License-Identifier: MIT
// What a GGUF file says of its model and tokenizer, under llama.cpp's keys.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "formats/gguf_writer.h"
#include "qwen3_mlx/model_args.h"

namespace qwen3_mlx {

/// The architecture's name for "model_type", "qwen3moe" for "qwen3_moe".
/// Throws FieldError for a model that llama.cpp's format cannot hold as it is.
std::string gguf_architecture(const ModelArgs& args);

/// general.* and the architecture's own keys. `file_type` is llama.cpp's
/// number for what most tensors are.
void add_model_metadata(
    const ModelArgs& args,
    const std::string& name,
    std::uint32_t file_type,
    GgufMetadata& metadata);

/// What Llama 3's rope scaling multiplies the period of each pair with, which
/// is a tensor "rope_freqs.weight" in the file; empty for other scalings.
std::vector<float> rope_factors(const ModelArgs& args);

/// tokenizer.*, from tokenizer.json and the files beside it, or from a GGUF
/// file. `n_vocab` is the number of the embedding's rows: ids without a token
/// get a placeholder. Nothing where `from` has no tokenizer. Throws FieldError
/// for a tokenizer that llama.cpp has no name for.
void add_tokenizer_metadata(
    const std::filesystem::path& from,
    std::int64_t n_vocab,
    GgufMetadata& metadata);

} // namespace qwen3_mlx
