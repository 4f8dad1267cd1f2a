// SPDX-License-Identifier: MIT
// Decides, before a template runs, which variable each name means.
#pragma once

#include "chat/jinja/ast.h"

namespace qwen3_mlx::jinja {

/// Fills in the slots and frames of the tree. Jinja compiles templates to
/// Python functions whose local variables are chosen by a static pass; what a
/// name means (and which errors come before anything is printed) follows from
/// that pass, so it is done here in the same way. Throws SyntaxFault.
void resolve_names(Ast& ast);

} // namespace qwen3_mlx::jinja
