// SPDX-License-Identifier: MIT
// The small parts of a tokenizer.json: normalizer, pre_tokenizer,
// post_processor and decoder. What they hold that is not known is an error.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/definition.h"

namespace qwen3_mlx {

/// The texts of the four parts; empty where the file has none.
struct PipelineTexts {
  std::string_view normalizer;
  std::string_view pre_tokenizer;
  std::string_view post_processor;
  std::string_view decoder;
};

/// Fills nfc, steps, prefix and suffix of `definition`, whose vocabulary is
/// complete. Throws FieldError.
void read_pipeline(
    const std::filesystem::path& file,
    const PipelineTexts& texts,
    TokenizerDefinition& definition);

/// The step for a split regex, if it is a known one.
std::optional<SplitStep> known_split(std::string_view regex);

} // namespace qwen3_mlx
