// SPDX-License-Identifier: MIT
#include "tokenizer/bpe.h"

#include <algorithm>
#include <functional>
#include <utility>

namespace qwen3_mlx {
namespace {

// Up to here scanning all ranks for the lowest beats a queue (measured on
// Chinese text, whose pieces are long).
constexpr std::size_t max_short = 48;

// Scratch of a huge piece is given back, so that one text does not raise the
// memory of every later call.
constexpr std::size_t max_kept = std::size_t{1} << 16;

std::uint64_t queue_entry(std::uint32_t rank, std::size_t pos) {
  return std::uint64_t{rank} << 32 | static_cast<std::uint32_t>(pos);
}

} // namespace

Bpe::Bpe(const Vocabulary& vocabulary, MergeTable merges, BpeOptions options)
    : merges_(std::move(merges)), options_(options) {
  for (std::size_t byte = 0; byte < byte_ids_.size(); ++byte) {
    const char value = static_cast<char>(byte);
    byte_ids_[byte] = vocabulary.find_bytes({&value, 1}).value_or(no_token);
  }
}

void Bpe::encode(
    const Vocabulary& vocabulary,
    std::string_view piece,
    BpeScratch& scratch,
    IdSink& out) const {
  if (options_.ignore_merges) {
    if (const auto id = vocabulary.find_bytes(piece)) {
      out.push(*id);
      return;
    }
  }
  if (piece.size() <= max_short) {
    std::array<TokenId, max_short> ids;
    merge_short(start(piece, ids.data()), ids.data(), out);
    return;
  }
  scratch.ids.resize(std::max(scratch.ids.size(), piece.size()));
  merge_long(start(piece, scratch.ids.data()), scratch, out);
  if (scratch.ids.size() > max_kept) {
    scratch = {};
  }
}

/// The tokens of the single bytes; returns their number.
std::size_t Bpe::start(std::string_view piece, TokenId* ids) const {
  std::size_t size = 0;
  bool after_unknown = false;
  for (const char byte : piece) {
    const TokenId id = byte_ids_[static_cast<std::uint8_t>(byte)];
    if (id != no_token) {
      ids[size++] = id;
    } else if (options_.unk_id && !(options_.fuse_unk && after_unknown)) {
      ids[size++] = *options_.unk_id;
    }
    after_unknown = id == no_token;
  }
  return size;
}

void Bpe::merge_short(std::size_t size, TokenId* ids, IdSink& out) const {
  // Rank above, position below: the minimum is the next merge.
  std::array<std::uint64_t, max_short> queue;
  std::array<TokenId, max_short> merged;
  std::size_t num_pairs = 0;
  const auto look_up = [&](std::size_t pos) {
    const Merge merge = merges_(ids[pos], ids[pos + 1]);
    merged[pos] = merge.id;
    queue[pos] = queue_entry(merge.rank, pos);
  };
  for (; num_pairs + 1 < size; ++num_pairs) {
    look_up(num_pairs);
  }
  while (num_pairs > 0) {
    std::uint64_t lowest = queue[0];
    for (std::size_t idx = 1; idx < num_pairs; ++idx) {
      lowest = std::min(lowest, queue[idx]);
    }
    if (lowest >> 32 == no_rank) {
      break;
    }
    const auto pos = static_cast<std::uint32_t>(lowest);
    ids[pos] = merged[pos];
    // Close the gap; positions are part of the entries.
    for (std::size_t idx = pos + 1; idx < num_pairs; ++idx) {
      ids[idx] = ids[idx + 1];
      merged[idx - 1] = merged[idx];
      queue[idx - 1] = queue[idx] - 1;
    }
    --num_pairs;
    if (pos < num_pairs) {
      look_up(pos);
    }
    if (pos > 0) {
      look_up(pos - 1);
    }
  }
  const std::size_t count = size == 0 ? 0 : num_pairs + 1;
  std::copy_n(ids, count, out.reserve(count));
  out.advance(count);
}

void Bpe::merge_long(std::size_t size, BpeScratch& scratch, IdSink& out) const {
  auto& ids = scratch.ids;
  auto& ranks = scratch.ranks;
  auto& previous = scratch.previous;
  auto& next = scratch.next;
  auto& queue = scratch.queue;
  const auto end = static_cast<std::uint32_t>(size);
  ranks.resize(std::max(ranks.size(), size));
  previous.resize(std::max(previous.size(), size));
  next.resize(std::max(next.size(), size));
  queue.clear();
  // Symbols are a linked list over their first bytes. An entry of the queue is
  // stale when the rank at its position is another by now.
  for (std::uint32_t pos = 0; pos < end; ++pos) {
    previous[pos] = pos - 1;
    next[pos] = pos + 1;
    ranks[pos] = pos + 1 < end ? merges_(ids[pos], ids[pos + 1]).rank : no_rank;
    if (ranks[pos] != no_rank) {
      queue.push_back(queue_entry(ranks[pos], pos));
    }
  }
  // A heap of a million entries misses the cache at every level. So most are
  // taken from a sorted list; the heap only holds what has come up since, and
  // becomes the next list.
  const std::greater<> lowest_first;
  auto& sorted = scratch.sorted;
  sorted.clear();
  std::size_t cursor = 0;
  const auto look_up = [&](std::uint32_t pos) {
    const std::uint32_t right = next[pos];
    ranks[pos] = right < end ? merges_(ids[pos], ids[right]).rank : no_rank;
    if (ranks[pos] != no_rank) {
      queue.push_back(queue_entry(ranks[pos], pos));
      std::push_heap(queue.begin(), queue.end(), lowest_first);
    }
  };
  while (cursor < sorted.size() || !queue.empty()) {
    if (cursor == sorted.size()) {
      sorted.swap(queue);
      queue.clear();
      std::sort(sorted.begin(), sorted.end());
      cursor = 0;
    }
    std::uint64_t entry = sorted[cursor];
    if (!queue.empty() && queue.front() < entry) {
      std::pop_heap(queue.begin(), queue.end(), lowest_first);
      entry = queue.back();
      queue.pop_back();
    } else {
      ++cursor;
    }
    const auto pos = static_cast<std::uint32_t>(entry);
    if (ranks[pos] != entry >> 32) {
      continue;
    }
    const std::uint32_t right = next[pos];
    ids[pos] = merges_(ids[pos], ids[right]).id;
    ranks[right] = no_rank;
    next[pos] = next[right];
    if (next[pos] < end) {
      previous[next[pos]] = pos;
    }
    look_up(pos);
    if (pos > 0) {
      look_up(previous[pos]);
    }
  }
  for (std::uint32_t pos = 0; pos < end; pos = next[pos]) {
    out.push(ids[pos]);
  }
}

} // namespace qwen3_mlx
