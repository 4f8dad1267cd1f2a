// SPDX-License-Identifier: MIT
#include "engine/paged_kv.h"

#include <mlx/mlx.h>

#include <cstring>

#include "qwen3_mlx/error.h"

namespace qwen3_mlx::engine {
namespace {

// Asks a store for what a pool of blocks has no answer to.
[[noreturn]] void refuse(std::string_view what) {
  throw Error("a paged cache cannot " + std::string(what));
}

/// A cache that can do no more than serve the engine's steps.
class BlockStore : public KVStore {
 public:
  bool has_blocks() const override {
    return true;
  }
  mx::array attend(
      const mx::array&,
      const mx::array&,
      const mx::array&,
      const AttentionMask&) override {
    refuse("be read by MLX's attention");
  }
  KeyValues update_and_fetch(const mx::array&, const mx::array&) override {
    refuse("give out its contents");
  }
  std::optional<KeyValues> fetch() const override {
    refuse("give out its contents");
  }
  bool can_trim(int) const override {
    return false;
  }
  void trim(int) override {
    refuse("be trimmed");
  }
  std::size_t n_bytes() const override {
    return 0; // the pool's
  }
  std::vector<mx::array> pending() const override {
    return last_ ? std::vector{*last_} : std::vector<mx::array>{};
  }
  void written_by(const mx::array& attention) override {
    last_ = attention;
  }
  std::vector<std::pair<std::string, mx::array>> state() const override {
    refuse("be saved");
  }
  std::string kind() const override {
    return "paged";
  }
  std::vector<std::pair<std::string, int>> counters() const override {
    return {};
  }
  void restore(
      const std::vector<std::pair<std::string, mx::array>>&,
      const std::vector<std::pair<std::string, int>>&) override {
    refuse("be restored");
  }
  std::unique_ptr<KVStore> copy() const override {
    refuse("be copied");
  }
  std::unique_ptr<KVStore> make_empty() const override {
    refuse("be made anew");
  }

 protected:
  std::optional<mx::array> last_; // what wrote in this step
};

/// Learns what a layer would append and lets it write to blocks of its own.
class ProbeStore final : public BlockStore {
 public:
  explicit ProbeStore(cpu::KvShape* found) : found_(found) {}

  cpu::KvAppend
  append(const cpu::KvShape& shape, int batch, int length) override {
    *found_ = shape;
    blocks_ = std::make_unique<cpu::KvBlocks>(shape, batch);
    blocks_->reserve(0, length);
    return {.shape = shape, .tables = blocks_->tables()};
  }
  int offset() const override {
    return 0;
  }

 private:
  cpu::KvShape* found_;
  std::unique_ptr<cpu::KvBlocks> blocks_;
};

} // namespace

struct PagedStorage::Text {
  std::vector<BlockId> blocks;
  int begin = 0; // where the step writes
};

struct PagedStorage::Held {
  std::shared_ptr<Text> text;
  std::vector<KVCache> caches;

  class Store final : public BlockStore {
   public:
    Store(
        std::shared_ptr<const Text> text,
        std::shared_ptr<const cpu::KvBlockPool> pool)
        : text_(std::move(text)), pool_(std::move(pool)) {}

    cpu::KvAppend append(const cpu::KvShape& shape, int batch, int) override {
      if (shape.n_kv_heads != pool_->shape().n_kv_heads ||
          shape.head_dim != pool_->shape().head_dim || batch != 1) {
        refuse("take keys of another shape than the layer's");
      }
      auto table = std::make_shared<cpu::BlockTable>();
      table->owner = pool_;
      table->blocks.reserve(text_->blocks.size());
      for (const BlockId block : text_->blocks) {
        table->blocks.push_back(pool_->block(block));
      }
      return {
          .shape = pool_->shape(),
          .tables = {std::move(table)},
          .offset = text_->begin};
    }
    int offset() const override {
      return text_->begin;
    }

   private:
    std::shared_ptr<const Text> text_;
    std::shared_ptr<const cpu::KvBlockPool> pool_;
  };
};

PagedStorage::PagedStorage(
    const std::vector<cpu::KvShape>& shapes,
    int num_blocks) {
  for (const auto& shape : shapes) {
    pools_.push_back(std::make_shared<cpu::KvBlockPool>(shape, num_blocks));
  }
}

PagedStorage::~PagedStorage() = default;

void PagedStorage::copy(std::span<const BlockCopy> copies) {
  for (const auto& [from, to] : copies) {
    for (const auto& pool : pools_) {
      pool->copy_block(from, to);
    }
  }
}

std::span<KVCache> PagedStorage::caches_for(const Chunk& chunk) {
  auto& held = held_[chunk.sequence->id];
  if (!held.text) {
    held.text = std::make_shared<Text>();
    for (const auto& pool : pools_) {
      held.caches.emplace_back(std::make_unique<Held::Store>(held.text, pool));
    }
  }
  held.text->blocks = chunk.sequence->table.blocks;
  held.text->begin = chunk.begin;
  return held.caches;
}

void PagedStorage::drop(SequenceId id) {
  held_.erase(id);
}

std::size_t PagedStorage::block_bytes() const {
  std::size_t total = 0;
  for (const auto& pool : pools_) {
    total += pool->shape().block_bytes();
  }
  return total;
}

void PagedStorage::read_block(BlockId block, std::byte* to) const {
  for (const auto& pool : pools_) {
    std::memcpy(to, pool->block(block), pool->shape().block_bytes());
    to += pool->shape().block_bytes();
  }
}

void PagedStorage::write_block(BlockId block, const std::byte* from) {
  for (const auto& pool : pools_) {
    std::memcpy(pool->block(block), from, pool->shape().block_bytes());
    from += pool->shape().block_bytes();
  }
}

std::vector<cpu::KvShape>
probe_kv_shapes(const Model& model, const CacheOptions& options) {
  const auto num_layers =
      static_cast<std::size_t>(model.args().num_hidden_layers);
  std::vector<cpu::KvShape> shapes(num_layers);
  std::vector<KVCache> caches;
  for (auto& shape : shapes) {
    caches.emplace_back(std::make_unique<ProbeStore>(&shape));
  }
  try {
    auto logits =
        model.forward({mx::array({0}, mx::uint32), {{caches, 1}}, {}});
    logits.eval();
  } catch (const Error&) {
    return {}; // a layer took another way
  }
  if (options.kv_bits) {
    for (auto& shape : shapes) {
      shape.bits = *options.kv_bits;
      shape.group = options.kv_group_size;
      if (shape.head_dim % shape.group != 0) {
        throw InvalidArgument(
            "kv_group_size: " + std::to_string(shape.group) +
            " does not divide the model's head_dim of " +
            std::to_string(shape.head_dim) + "; give 32");
      }
    }
  }
  return shapes;
}

} // namespace qwen3_mlx::engine
