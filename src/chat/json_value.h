// SPDX-License-Identifier: MIT
// JSON text -> template values, keeping the order of keys.
#pragma once

#include <string_view>

#include "chat/jinja/value.h"

namespace qwen3_mlx {

/// `what` names the text in errors, as in "request". Invalid UTF-8 and halves
/// of surrogate pairs become U+FFFD. Throws InvalidArgument, with the byte,
/// for what is not JSON, nests deeper than 100 or holds an integer beyond 64
/// bits.
jinja::Value parse_json(std::string_view text, std::string_view what);

} // namespace qwen3_mlx
