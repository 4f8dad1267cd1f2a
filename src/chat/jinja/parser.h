// SPDX-License-Identifier: MIT
// Tokens -> syntax tree, by Jinja's grammar with the tags that transformers
// adds: break, continue and generation.
#pragma once

#include <string_view>

#include "chat/jinja/ast.h"
#include "chat/jinja/lexer.h"

namespace qwen3_mlx::jinja {

/// Throws SyntaxFault. `source` is normalized.
Ast parse(std::string_view source);

} // namespace qwen3_mlx::jinja
