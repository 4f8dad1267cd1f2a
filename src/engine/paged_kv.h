// SPDX-License-Identifier: MIT
// Keys and values in one pool of blocks a layer, for the CPU kernels.
#pragma once

#include <memory>
#include <unordered_map>
#include <vector>

#include "engine/kv_storage.h"
#include "kernels/cpu/kv_blocks.h"

namespace qwen3_mlx::engine {

class PagedStorage final : public KvStorage {
 public:
  /// Throws Error when there is no memory. `shapes`: one a layer.
  PagedStorage(const std::vector<cpu::KvShape>& shapes, int num_blocks);
  ~PagedStorage() override;

  bool shares_blocks() const override {
    return true;
  }
  void copy(std::span<const BlockCopy> copies) override;
  std::span<KVCache> caches_for(const Chunk& chunk) override;
  bool can_resume(const Chunk&) const override {
    return true; // a block's positions can be written again
  }
  bool can_step_back() const override {
    return false; // a table holds for one step
  }
  bool logits_cover_writes() const override {
    return true; // attention writes
  }
  void drop(SequenceId id) override;
  std::size_t block_bytes() const override;
  void read_block(BlockId block, std::byte* to) const override;
  void write_block(BlockId block, const std::byte* from) override;

 private:
  struct Text; // what the layers' stores share of one sequence
  struct Held;

  std::vector<std::shared_ptr<cpu::KvBlockPool>> pools_;
  std::unordered_map<SequenceId, Held> held_;
};

/// Runs `model` for one token; the shape of each layer's keys and values, or
/// nothing where its attention does not take blocks. Throws InvalidArgument
/// when kv_group_size does not divide a head.
std::vector<cpu::KvShape>
probe_kv_shapes(const Model& model, const CacheOptions& options);

} // namespace qwen3_mlx::engine
