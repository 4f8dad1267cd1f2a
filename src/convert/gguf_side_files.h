// SPDX-License-Identifier: MIT
// The tokenizer, chat template and generation config that a GGUF file holds, as
// the files of a checkpoint directory.
#pragma once

#include "convert/staged_directory.h"
#include "formats/gguf.h"
#include "qwen3_mlx/model_args.h"

namespace qwen3_mlx {

/// Writes tokenizer.json, tokenizer_config.json and generation_config.json; of
/// a file without a tokenizer only the last. Throws FieldError for a tokenizer
/// that this library cannot read either.
void write_gguf_side_files(
    const GgufFile& file,
    const ModelArgs& args,
    StagedDirectory& to);

} // namespace qwen3_mlx
