// SPDX-License-Identifier: MIT
// What the caches share once CPU kernels have attended: blocks of keys and
// values outside MLX's graph, and the operation that writes them.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "kernels/cpu/kv_blocks.h"
#include "qwen3_mlx/kv_cache.h"

namespace qwen3_mlx {

struct NativeBlocks {
  std::shared_ptr<cpu::KvBlocks> blocks;
  /// The last operation that writes to the blocks, when one does.
  std::optional<mx::array> last;

  /// Returns when nothing writes to the blocks any more.
  void wait() const;
  /// What KVStore::pending() returns.
  std::vector<mx::array> pending() const;
  /// Positions [begin, end) of blocks of floats, once all writing has ended.
  KeyValues read(int begin, int end) const;
  /// Fills the blocks from position `begin` on.
  void write(int begin, const KeyValues& held) const;
};

/// Blocks of `shape`, but in the dtype of what is held already.
NativeBlocks make_blocks(
    cpu::KvShape shape,
    int batch,
    const std::optional<mx::array>& held);

} // namespace qwen3_mlx
