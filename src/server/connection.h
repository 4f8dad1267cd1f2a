// SPDX-License-Identifier: MIT
// One client: reads requests, lets the API answer them, writes the answers, all
// in one coroutine on the network's thread.
#pragma once

#include "server/hub.h"

namespace qwen3_mlx::server {

asio::awaitable<void> serve_connection(tcp::socket socket, Hub& hub);

} // namespace qwen3_mlx::server
