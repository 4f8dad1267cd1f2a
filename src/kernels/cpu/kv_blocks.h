// SPDX-License-Identifier: MIT
// Keys and values of one layer outside MLX's graph, in blocks of a fixed number
// of positions. An array that a step writes in place would be copied whenever
// the step before is still running; here the order of writes and reads is kept
// by the stream, and by each attention operation depending on the one before.
//
// How a cache uses it (GrowingKV is an example): KVStore::append() finds room
// for the new positions, each sequence's blocks listed in the order of their
// positions, and returns them as a KvAppend; Attention makes one operation for
// all segments of a step from what their caches returned, and tells it to each
// by KVStore::written_by(). Blocks may be anywhere, and sequences may share
// those that no one writes to any more: a block about to be written must be in
// one list only. The bits of the result do not depend on which blocks are used.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "kernels/cpu/kernel_table.h"
#include "mlx/array.h"

namespace qwen3_mlx::cpu {
namespace mx = mlx::core;

/// The blocks of one sequence: blocks[i] holds positions [i * kKvBlockSize,
/// (i + 1) * kKvBlockSize). Those that nothing reads any more may be null.
/// Never changed once made: operations that run later read it.
struct BlockTable {
  std::vector<std::byte*> blocks;
  std::shared_ptr<const void> owner; ///< Keeps the memory.
};

/// The first positions of sequences whose others are kept in another shape.
struct KvHead {
  KvShape shape;
  std::vector<std::shared_ptr<const BlockTable>> tables; ///< One a sequence.
  int length = 0;
};

/// Where an operation writes the new positions of a segment, and what its
/// queries see besides.
struct KvAppend {
  KvShape shape;
  std::vector<std::shared_ptr<const BlockTable>> tables; ///< One a sequence.
  std::optional<KvHead> head;
  int offset = 0; ///< The first new position.
  /// A query sees the first `keep` positions and the `recent` latest ones,
  /// itself included; all if absent.
  int keep = 0;
  std::optional<int> recent;
  /// The operation that wrote to these blocks last, unless that has run.
  std::optional<mx::array> after;
};

/// A fixed number of blocks, by index: the memory of a cache that sequences
/// share. Pages are taken from the system when they are first written.
class KvBlockPool {
 public:
  /// Throws Error when there is no memory.
  KvBlockPool(const KvShape& shape, int num_blocks);

  const KvShape& shape() const {
    return shape_;
  }
  int num_blocks() const {
    return num_blocks_;
  }
  std::byte* block(int idx) const {
    return data_.get() + static_cast<std::size_t>(idx) * shape_.block_bytes();
  }
  /// Copies the contents of a block. The caller has waited for the operations
  /// that write either.
  void copy_block(int from, int to) const;

 private:
  KvShape shape_;
  int num_blocks_;
  std::shared_ptr<std::byte[]> data_;
};

/// Dense arrays of some positions: [batch, n_kv_heads, length, n] each.
struct KvArrays {
  /// Numbers of the blocks' type, n = head_dim; or codes, least significant
  /// bits first in words of 32 bits, n = head_dim * bits / 32...
  std::byte* data = nullptr;
  std::byte* scales = nullptr; ///< ...with these, n = head_dim / group.
  std::byte* biases = nullptr;
};

/// The blocks of `batch` sequences of one length that own their memory.
class KvBlocks {
 public:
  KvBlocks(const KvShape& shape, int batch)
      : shape_(shape), sequences_(static_cast<std::size_t>(batch)) {}

  /// Makes room for positions [begin, end). Those between what there was room
  /// for and `begin` get none.
  void reserve(int begin, int end);
  /// Makes all values of the blocks that are there 0, padding included.
  void set_to_zero();
  /// Gives up the whole blocks in positions [begin, end), once the operations
  /// that know them have run.
  void forget(int begin, int end);
  /// What the operations read, one table a sequence.
  const std::vector<std::shared_ptr<const BlockTable>>& tables();

  /// Copies positions [begin, end) to, or from, arrays. The caller has waited
  /// for the operations that write the blocks.
  void
  save(int begin, int end, const KvArrays& keys, const KvArrays& values) const;
  void load(int begin, int end, const KvArrays& keys, const KvArrays& values);

  const KvShape& shape() const {
    return shape_;
  }
  int batch() const {
    return static_cast<int>(sequences_.size());
  }
  std::size_t n_bytes() const;

 private:
  using Block = std::shared_ptr<std::byte[]>;

  // The next block of the memory at hand, or of more.
  Block new_block();
  template <class Copy>
  void for_each_run(int begin, int end, Copy&& copy) const;

  KvShape shape_;
  std::vector<std::vector<Block>> sequences_;
  std::shared_ptr<std::byte[]> chunk_; // of chunk_size_ blocks
  std::size_t chunk_size_ = 0;
  std::size_t chunk_used_ = 0;
  std::vector<std::shared_ptr<const BlockTable>> tables_; // empty: out of date
};

} // namespace qwen3_mlx::cpu
