// SPDX-License-Identifier: MIT
// The whole server: engine, API and network, from start to shutdown.
#pragma once

#include <functional>

#include "engine/engine.h"
#include "qwen3_mlx/chat_template.h"
#include "qwen3_mlx/model.h"
#include "qwen3_mlx/tokenizer.h"
#include "server/options.h"

namespace qwen3_mlx::server {

/// Serves until a SIGTERM or SIGINT, which lets requests under way end (a
/// second one does not). Returns 0, or 1 when the engine gave up. `on_listen`
/// is told the address. Throws Error when the address cannot be bound or the
/// memory does not suffice, InvalidArgument for options out of range.
int serve(
    Model model,
    Tokenizer tokenizer,
    ChatTemplate chat_template,
    const engine::EngineOptions& engine_options,
    const ServerOptions& options,
    const std::function<void(const std::string& url)>& on_listen = {});

} // namespace qwen3_mlx::server
