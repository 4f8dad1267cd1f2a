// SPDX-License-Identifier: MIT
#include "engine/block_manager.h"

#include <algorithm>
#include <string>

#include "qwen3_mlx/error.h"

namespace qwen3_mlx::engine {

std::size_t BlockManager::KeyHash::operator()(const Key& key) const noexcept {
  // Multiply and rotate: a spread for buckets; equality is checked in full.
  std::uint64_t hash = key.parent * 0x9e3779b97f4a7c15u;
  for (const auto token : key.tokens) {
    hash = ((hash << 23) | (hash >> 41)) ^ token;
    hash *= 0x9e3779b97f4a7c15u;
  }
  return static_cast<std::size_t>(hash ^ (hash >> 32));
}

BlockManager::BlockManager(const BlockOptions& options) : options_(options) {
  if (options.num_blocks < 1 || options.block_size < 1) {
    throw InvalidArgument(
        "blocks: expected at least one of at least one position, found " +
        std::to_string(options.num_blocks) + " of " +
        std::to_string(options.block_size));
  }
  blocks_.resize(static_cast<std::size_t>(options.num_blocks));
  free_.reserve(blocks_.size());
  for (BlockId block = options.num_blocks - 1; block >= 0; --block) {
    free_.push_back(block);
  }
}

// Calls visit(block) for each known block from the start of `tokens` on.
template <class Visit>
void BlockManager::walk(std::span<const std::uint32_t> tokens, Visit visit)
    const {
  if (!options_.prefix_cache) {
    return;
  }
  const auto size = static_cast<std::size_t>(options_.block_size);
  Key key{0, {}};
  for (std::size_t begin = 0; begin + size <= tokens.size(); begin += size) {
    const auto piece = tokens.subspan(begin, size);
    key.tokens.assign(piece.begin(), piece.end());
    const auto found = tree_.find(key);
    if (found == tree_.end()) {
      return;
    }
    key.parent = at(found->second).node;
    visit(found->second);
  }
}

BlockManager::Prefix
BlockManager::find_prefix(std::span<const std::uint32_t> tokens) const {
  Prefix prefix;
  walk(tokens, [&](BlockId block) {
    prefix.num_tokens += options_.block_size;
    prefix.num_unheld_blocks += at(block).num_references == 0 ? 1 : 0;
  });
  return prefix;
}

int BlockManager::take_prefix(
    BlockTable& table,
    std::span<const std::uint32_t> tokens) {
  walk(tokens, [&](BlockId block) { table.blocks.push_back(block); });
  for (const BlockId block : table.blocks) {
    hold(block);
  }
  table.num_published = static_cast<int>(table.blocks.size());
  if (!table.blocks.empty()) {
    table.tail_node = at(table.blocks.back()).node;
  }
  return table.num_published * options_.block_size;
}

bool BlockManager::grow(BlockTable& table) {
  const auto block = take_block();
  if (block) {
    table.blocks.push_back(*block);
  }
  return block.has_value();
}

void BlockManager::share(
    BlockTable& table,
    const BlockTable& parent,
    int num_tokens) {
  const int num_blocks = blocks_for(num_tokens);
  const int num_full = num_tokens / options_.block_size;
  table.blocks.assign(
      parent.blocks.begin(), parent.blocks.begin() + num_blocks);
  for (const BlockId block : table.blocks) {
    hold(block);
  }
  // What the parent published beyond the shared part is not this one's.
  if (parent.num_published <= num_full) {
    table.num_published = parent.num_published;
    table.tail_node = parent.tail_node;
  }
}

BlockManager::Owned BlockManager::make_own(BlockTable& table, std::size_t idx) {
  const BlockId block = table.blocks[idx];
  const bool is_findable = at(block).node != 0;
  if (at(block).num_references == 1 && !is_findable) {
    return {};
  }
  const auto own = take_block();
  if (!own && at(block).num_references == 1) {
    // Nothing to copy to, but nobody else holds it: it is not to be found any
    // more, and published anew once it is written.
    table.num_published = static_cast<int>(idx);
    table.tail_node = at(block).key->parent;
    unpublish(block);
    return {};
  }
  if (!own) {
    return {.failed = true};
  }
  let_go(block);
  table.blocks[idx] = *own;
  return {.copy = BlockCopy{block, *own}};
}

void BlockManager::publish(
    BlockTable& table,
    std::span<const std::uint32_t> tokens,
    int num_computed) {
  if (!options_.prefix_cache) {
    return;
  }
  const auto size = static_cast<std::size_t>(options_.block_size);
  const int num_full = num_computed / options_.block_size;
  for (int idx = table.num_published; idx < num_full; ++idx) {
    const auto piece =
        tokens.subspan(static_cast<std::size_t>(idx) * size, size);
    const BlockId block = table.blocks[static_cast<std::size_t>(idx)];
    table.num_published = idx + 1;
    if (at(block).node != 0) { // shared with whoever published it
      table.tail_node = at(block).node;
      continue;
    }
    const auto [entry, is_new] = tree_.try_emplace(
        Key{table.tail_node, {piece.begin(), piece.end()}}, block);
    if (is_new) {
      at(block).node = ++last_node_;
      at(block).key = &entry->first;
    }
    // Where another sequence was faster, the tree goes on from its block.
    table.tail_node = at(entry->second).node;
  }
}

void BlockManager::release(BlockTable& table) {
  // The end first: a block is no use without those before it.
  for (auto block = table.blocks.rbegin(); block != table.blocks.rend();
       ++block) {
    let_go(*block);
  }
  table = {};
}

void BlockManager::clear_cache() {
  while (lru_.size > 0) {
    forget(lru_.oldest);
  }
}

std::vector<FoundPrefix> BlockManager::findable() const {
  // By last use: those that are held, then the others from the newest on. A
  // parent is not always newer than its children, since only the holder of a
  // longer text uses both.
  std::vector<BlockId> order;
  for (BlockId block = 0; block < options_.num_blocks; ++block) {
    if (at(block).node != 0 && at(block).num_references > 0) {
      order.push_back(block);
    }
  }
  for (BlockId block = lru_.newest; block != no_block;
       block = at(block).older) {
    order.push_back(block);
  }
  std::unordered_map<std::uint64_t, BlockId> block_of;
  for (const BlockId block : order) {
    block_of.emplace(at(block).node, block);
  }
  std::vector<FoundPrefix> found;
  std::unordered_map<std::uint64_t, std::int32_t> index_of; // by node
  std::vector<BlockId> path;
  for (const BlockId block : order) {
    path.clear();
    std::uint64_t node = at(block).node;
    while (node != 0 && !index_of.contains(node)) {
      const auto next = block_of.find(node);
      if (next == block_of.end()) {
        path.clear(); // its parent was forgotten: nobody can find it any more
        break;
      }
      path.push_back(next->second);
      node = at(next->second).key->parent;
    }
    for (auto next = path.rbegin(); next != path.rend(); ++next) {
      const auto index = static_cast<std::int32_t>(found.size());
      const auto& entry = at(*next);
      const auto parent = index_of.find(entry.key->parent);
      found.push_back(
          {*next,
           parent == index_of.end() ? index : parent->second,
           entry.key->tokens});
      index_of.emplace(entry.node, index);
    }
  }
  return found;
}

std::optional<BlockId> BlockManager::reserve_unused() {
  const int num_held = options_.num_blocks - num_available();
  if (free_.empty() || !options_.prefix_cache ||
      lru_.size + num_held >= options_.max_cached_blocks) {
    return std::nullopt;
  }
  return take_block();
}

void BlockManager::give_back(BlockId block) {
  let_go(block);
}

void BlockManager::adopt(std::span<const FoundPrefix> prefixes) {
  std::vector<std::uint64_t> nodes;
  for (std::size_t idx = 0; idx < prefixes.size(); ++idx) {
    const auto& prefix = prefixes[idx];
    const auto parent_idx = static_cast<std::size_t>(prefix.parent);
    const std::uint64_t parent = parent_idx < idx ? nodes[parent_idx] : 0;
    const auto [entry, is_new] =
        tree_.try_emplace(Key{parent, prefix.tokens}, prefix.block);
    if (is_new) {
      at(prefix.block).node = ++last_node_;
      at(prefix.block).key = &entry->first;
    }
    nodes.push_back(at(entry->second).node);
  }
  // The oldest first, as if they had just been used in that order.
  for (std::size_t idx = prefixes.size(); idx-- > 0;) {
    let_go(prefixes[idx].block);
  }
}

std::optional<BlockId> BlockManager::take_block() {
  if (free_.empty()) {
    if (lru_.size == 0) {
      return std::nullopt;
    }
    forget(lru_.oldest);
  }
  const BlockId block = free_.back();
  free_.pop_back();
  at(block).num_references = 1;
  return block;
}

void BlockManager::hold(BlockId block) {
  if (at(block).num_references++ == 0) {
    unlink(block);
  }
}

void BlockManager::let_go(BlockId block) {
  if (--at(block).num_references > 0) {
    return;
  }
  if (at(block).node == 0) {
    free_.push_back(block);
    return;
  }
  push_newest(block);
  while (lru_.size > options_.max_cached_blocks) {
    forget(lru_.oldest);
  }
}

// A findable block that nobody holds becomes an unused one.
void BlockManager::forget(BlockId block) {
  unlink(block);
  unpublish(block);
  free_.push_back(block);
}

void BlockManager::unpublish(BlockId block) {
  tree_.erase(tree_.find(*at(block).key));
  at(block).node = 0;
  at(block).key = nullptr;
}

void BlockManager::push_newest(BlockId block) {
  at(block).older = lru_.newest;
  at(block).newer = no_block;
  (lru_.newest == no_block ? lru_.oldest : at(lru_.newest).newer) = block;
  lru_.newest = block;
  ++lru_.size;
}

void BlockManager::unlink(BlockId block) {
  auto& entry = at(block);
  (entry.older == no_block ? lru_.oldest : at(entry.older).newer) = entry.newer;
  (entry.newer == no_block ? lru_.newest : at(entry.newer).older) = entry.older;
  --lru_.size;
}

} // namespace qwen3_mlx::engine
