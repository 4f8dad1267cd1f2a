// SPDX-License-Identifier: MIT
#include "engine/kv_storage.h"

#include <algorithm>
#include <unordered_map>

#include "engine/paged_kv.h"
#include "qwen3_mlx/error.h"

namespace qwen3_mlx::engine {
namespace {

/// Each sequence's own caches; blocks only count memory.
class ContiguousStorage final : public KvStorage {
 public:
  ContiguousStorage(Model model, const CacheOptions& options)
      : model_(std::move(model)), options_(options) {}

  bool shares_blocks() const override {
    return false;
  }
  void copy(std::span<const BlockCopy> copies) override {
    if (!copies.empty()) {
      throw Error("caches of single sequences have no blocks to copy");
    }
  }
  std::span<KVCache> caches_for(const Chunk& chunk) override {
    auto& caches = held_[chunk.sequence->id];
    if (caches.empty()) {
      caches = model_.make_cache(options_);
    }
    // After a step that failed, or was computed for a token that was not to be,
    // a cache may be ahead of what counts as computed.
    for (auto& cache : caches) {
      const int ahead = cache.offset() - chunk.begin;
      if (ahead > 0 && chunk.begin == 0) {
        cache.reset();
      } else if (ahead != 0) {
        cache.trim(ahead);
      }
    }
    return caches;
  }
  bool can_resume(const Chunk& chunk) const override {
    const auto held = held_.find(chunk.sequence->id);
    if (chunk.begin == 0 || held == held_.end()) {
      return chunk.begin == 0;
    }
    return std::ranges::all_of(held->second, [&](const KVCache& cache) {
      const int ahead = cache.offset() - chunk.begin;
      return ahead == 0 || (ahead > 0 && cache.can_trim(ahead));
    });
  }
  // A rotating cache has written over what it would go back to.
  bool can_step_back() const override {
    return !options_.max_kv_size;
  }
  // A rotating cache keeps another arrangement than attention looks at.
  bool logits_cover_writes() const override {
    return !options_.max_kv_size;
  }
  void drop(SequenceId id) override {
    held_.erase(id);
  }
  std::size_t block_bytes() const override {
    return 0;
  }
  void read_block(BlockId, std::byte*) const override {
    throw Error("caches of single sequences have no blocks to read");
  }
  void write_block(BlockId, const std::byte*) override {
    throw Error("caches of single sequences have no blocks to write");
  }

 private:
  Model model_;
  CacheOptions options_;
  std::unordered_map<SequenceId, std::vector<KVCache>> held_;
};

constexpr int contiguous_block_size = 64;

// Bytes of one position of all layers, as the caches keep it.
std::size_t position_bytes(const Model& model, const CacheOptions& options) {
  const auto& args = model.args();
  const auto values = std::size_t{2} *
      static_cast<std::size_t>(args.num_hidden_layers) *
      static_cast<std::size_t>(args.num_key_value_heads) *
      static_cast<std::size_t>(args.head_dim);
  if (options.kv_bits) {
    // A scale and a bias of at most four bytes each for every group.
    return values * static_cast<std::size_t>(*options.kv_bits) / 8 +
        values / static_cast<std::size_t>(options.kv_group_size) * 8;
  }
  return values * sizeof(float); // no activations are wider
}

std::string form_of(const std::vector<cpu::KvShape>& shapes) {
  std::string form;
  for (const auto& shape : shapes) {
    for (const int part :
         {shape.n_kv_heads,
          shape.head_dim,
          static_cast<int>(shape.type),
          shape.bits,
          shape.group}) {
      form += std::to_string(part) + ' ';
    }
  }
  return form;
}

// Whether all positions are kept, and in one form.
bool is_pageable(const CacheOptions& options) {
  return !options.max_kv_size &&
      (!options.kv_bits || options.quantized_kv_start == 0);
}

} // namespace

KvLayout find_kv_layout(const Model& model, const CacheOptions& options) {
  if (is_pageable(options)) {
    const auto shapes = probe_kv_shapes(model, options);
    if (!shapes.empty()) {
      std::size_t block_bytes = 0;
      for (const auto& shape : shapes) {
        block_bytes += shape.block_bytes();
      }
      return {
          .block_size = cpu::kKvBlockSize,
          .block_bytes = block_bytes,
          .shares_blocks = true,
          .form = form_of(shapes),
          .make = [shapes](int num_blocks) -> std::unique_ptr<KvStorage> {
            return std::make_unique<PagedStorage>(shapes, num_blocks);
          }};
    }
  }
  return {
      .block_size = contiguous_block_size,
      .block_bytes = position_bytes(model, options) * contiguous_block_size,
      .shares_blocks = false,
      .form = {},
      .make = [model, options](int) -> std::unique_ptr<KvStorage> {
        return std::make_unique<ContiguousStorage>(model, options);
      }};
}

} // namespace qwen3_mlx::engine
