// SPDX-License-Identifier: MIT
// Plain values as JSON text, for what is kept as text.
#pragma once

#include <string>
#include <string_view>

#include "chat/jinja/value.h"

namespace qwen3_mlx {

/// `v` as Python's json.dumps(v, ensure_ascii=False) writes it. `v` holds only
/// what JSON can hold.
std::string to_json(const jinja::Value& v);

/// A JSON string literal of `text`, with its quotes.
std::string json_string(std::string_view text);

} // namespace qwen3_mlx
