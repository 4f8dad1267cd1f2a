// SPDX-License-Identifier: MIT
// Where sequences keep keys and values: in blocks that they share, for this
// project's own kernels, or each in caches of its own, for MLX's operations.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "engine/scheduler.h"
#include "qwen3_mlx/model.h"

namespace qwen3_mlx::engine {

/// Belongs to the engine's thread.
class KvStorage {
 public:
  virtual ~KvStorage() = default;

  /// Whether a block may belong to several sequences.
  virtual bool shares_blocks() const = 0;
  virtual void copy(std::span<const BlockCopy> copies) = 0;
  /// The sequence's caches, one a layer, at position chunk.begin. They may be
  /// beyond it where can_resume() says so.
  virtual std::span<KVCache> caches_for(const Chunk& chunk) = 0;
  /// Whether caches_for() can bring the sequence's caches to chunk.begin.
  virtual bool can_resume(const Chunk& chunk) const = 0;
  /// Whether caches can always give their last position back, so that a step
  /// may be computed before it is known to be wanted.
  virtual bool can_step_back() const = 0;
  /// Whether a sequence's logits are computed from all that its step wrote, so
  /// that who evaluates them leaves nothing behind.
  virtual bool logits_cover_writes() const = 0;
  /// The sequence has ended or gave its blocks back.
  virtual void drop(SequenceId id) = 0;

  /// The contents of a block, block_bytes() of them; only where blocks may be
  /// shared, and while no step runs.
  virtual std::size_t block_bytes() const = 0;
  virtual void read_block(BlockId block, std::byte* to) const = 0;
  virtual void write_block(BlockId block, const std::byte* from) = 0;
};

/// What a block of positions takes, and how storage for a number of them is
/// made; found out by running the model for one token.
struct KvLayout {
  int block_size = 0;
  std::size_t block_bytes = 0; ///< Keys and values of all layers.
  bool shares_blocks = false;
  std::string form; ///< Names the layout of a block's contents.
  std::function<std::unique_ptr<KvStorage>(int num_blocks)> make;
};

/// Rotating caches, and those that quantize later positions only, are each
/// sequence's own.
KvLayout find_kv_layout(const Model& model, const CacheOptions& options = {});

} // namespace qwen3_mlx::engine
