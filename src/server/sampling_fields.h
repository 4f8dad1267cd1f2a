// SPDX-License-Identifier: MIT
// The fields that chat and text completions have in common.
#pragma once

#include "server/completion_request.h"
#include "server/fields.h"

namespace qwen3_mlx::server {

/// Sampling, stops, limits, seed and priority; without a prompt.
engine::Request read_generation(Fields& fields, const ServedModel& model);

StreamOptions read_stream_options(Fields& fields);

/// Checks the name of the model.
void read_model(Fields& fields, const ServedModel& model);

/// Sets `request.max_tokens` to what was asked for, or to the default, and at
/// most to what the context leaves. Throws ApiError when the prompt leaves
/// nothing.
void limit_tokens(
    engine::Request& request,
    std::size_t num_prompt,
    const ServedModel& model);

/// Fields that change nothing, and those that would and are not supported.
void read_others(Fields& fields);

} // namespace qwen3_mlx::server
