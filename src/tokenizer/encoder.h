// SPDX-License-Identifier: MIT
// One text on its way to ids: added tokens, normalizer, split, merges.
#pragma once

#include <string_view>

#include "qwen3_mlx/tokenizer.h"
#include "tokenizer/id_sink.h"
#include "tokenizer/tokenizer_state.h"

namespace qwen3_mlx {

/// Appends the ids of `text`, which may hold any bytes.
void encode_text(
    const TokenizerState& state,
    std::string_view text,
    const EncodeOptions& options,
    EncodeContext& context,
    IdSink& out);

} // namespace qwen3_mlx
