// SPDX-License-Identifier: MIT
// Plain-MLX attention of queries over keys and values, with the masks that
// caches need.
#pragma once

#include <optional>

#include "qwen3_mlx/kv_cache.h"

namespace qwen3_mlx {

/// Elements [begin, end) of the positions of x [B, H, length, D].
mx::array cut_positions(const mx::array& x, int begin, int end);

/// queries [B, n_heads, L, D] of the last L positions of keys and values
/// [B, n_kv_heads, K, D], causal, inside mask.window -> [B, n_heads, L, D].
mx::array causal_attention(
    const mx::array& queries,
    const KeyValues& kv,
    const AttentionMask& mask);

/// [L, K] bool: whether the query at position offset + row sees the key at
/// position column, causal and inside the window.
mx::array causal_mask(int n_queries, int offset, std::optional<int> window);

/// Positions that a cache which needs `end` of them makes room for.
int grown_capacity(int end);

/// `x` with `update` [B, H, L, D] written at position `begin`, in place when
/// nothing else holds x; grown by whole steps of positions when too short.
mx::array write_positions(
    const std::optional<mx::array>& x,
    const mx::array& update,
    int begin,
    std::optional<int> max_positions = std::nullopt);

} // namespace qwen3_mlx
