// SPDX-License-Identifier: MIT
#include "tokenizer/vocabulary.h"

#include <algorithm>
#include <array>
#include <bit>
#include <stdexcept>

#include "tokenizer/byte_level.h"
#include "tokenizer/hash.h"

namespace qwen3_mlx {
namespace {

constexpr std::size_t min_slots = 64;

void prefetch(const void* address) {
  __builtin_prefetch(address);
}

} // namespace

void Vocabulary::reserve(std::size_t num_tokens, std::size_t n_bytes) {
  blob_.reserve(n_bytes);
  entries_.reserve(num_tokens);
}

bool Vocabulary::append(
    std::string_view token,
    TokenId id,
    std::uint8_t flags) {
  if (has(id)) {
    return false;
  }
  // A token is at most 16 MiB and the blob 4 GiB: loaders bound their file,
  // this bounds the fields.
  const auto offset = blob_.size();
  if (token.size() >= (1u << 24) || offset + token.size() > UINT32_MAX) {
    throw std::length_error("a vocabulary of more than 4 GiB");
  }
  if (!append_spelled_bytes(token, blob_)) {
    blob_ += token;
    flags |= verbatim;
  }
  if (id >= entries_.size()) {
    entries_.resize(id + std::size_t{1});
  }
  Entry& entry = entries_[id];
  entry.offset = static_cast<std::uint32_t>(offset);
  entry.size = static_cast<std::uint32_t>(blob_.size() - offset) & 0xFFFFFF;
  entry.flags = flags;
  ++num_tokens_;
  return true;
}

bool Vocabulary::add(std::string_view token, TokenId id) {
  return append(token, id, present);
}

Vocabulary::Insert
Vocabulary::add_outside_model(std::string_view token, TokenId id) {
  if (find_token(token)) {
    return Insert::duplicate_token;
  }
  if (!append(token, id, present | outside_model)) {
    return Insert::duplicate_id;
  }
  if (slots_.size() < num_tokens_ + num_tokens_ / 2) {
    index();
  } else {
    insert(id, hash_bytes(view(entries_[id])));
  }
  return Insert::done;
}

std::optional<TokenId> Vocabulary::index() {
  slots_.assign(
      std::bit_ceil(std::max(min_slots, num_tokens_ + num_tokens_ / 2)), {});
  // Hashing runs ahead of inserting, so that the slots are on their way.
  std::array<std::uint64_t, batch_size> hashes{};
  for (std::size_t start = 0; start < entries_.size(); start += batch_size) {
    const std::size_t count = std::min(batch_size, entries_.size() - start);
    for (std::size_t idx = 0; idx < count; ++idx) {
      hashes[idx] = hash_bytes(view(entries_[start + idx]));
      prefetch(&slots_[hashes[idx] & (slots_.size() - 1)]);
    }
    for (std::size_t idx = 0; idx < count; ++idx) {
      const Entry& entry = entries_[start + idx];
      if ((entry.flags & present) == 0) {
        continue;
      }
      if (find(view(entry), entry.flags & verbatim, hashes[idx]) != nullptr) {
        return id_of(&entry);
      }
      insert(id_of(&entry), hashes[idx]);
    }
  }
  return std::nullopt;
}

void Vocabulary::insert(TokenId id, std::uint64_t hash) {
  auto idx = hash & (slots_.size() - 1);
  while (slots_[idx].id_plus_1 != 0) {
    idx = (idx + 1) & (slots_.size() - 1);
  }
  slots_[idx] = {static_cast<std::uint32_t>(hash >> 32), id + 1};
}

const Vocabulary::Entry* Vocabulary::find(
    std::string_view bytes,
    std::uint8_t kind,
    std::uint64_t hash) const {
  if (slots_.empty()) {
    return nullptr;
  }
  const auto tag = static_cast<std::uint32_t>(hash >> 32);
  auto idx = hash & (slots_.size() - 1);
  while (slots_[idx].id_plus_1 != 0) {
    if (slots_[idx].tag == tag) {
      const Entry& entry = entries_[slots_[idx].id_plus_1 - 1];
      if ((entry.flags & verbatim) == kind && view(entry) == bytes) {
        return &entry;
      }
    }
    idx = (idx + 1) & (slots_.size() - 1);
  }
  return nullptr;
}

std::optional<TokenId> Vocabulary::find_bytes(std::string_view bytes) const {
  const Entry* entry = find(bytes, 0, hash_bytes(bytes));
  if (entry == nullptr || (entry->flags & outside_model) != 0) {
    return std::nullopt;
  }
  return id_of(entry);
}

void Vocabulary::find_bytes(
    std::span<const std::string_view> strings,
    std::span<TokenId> ids) const {
  std::fill(ids.begin(), ids.end(), not_found);
  if (slots_.empty()) {
    return;
  }
  // Slot, entry and bytes each miss the cache; asked for in turn for all
  // strings, the misses overlap.
  std::array<std::uint64_t, batch_size> hashes{};
  std::array<TokenId, batch_size> guesses{};
  for (std::size_t idx = 0; idx < strings.size(); ++idx) {
    hashes[idx] = hash_bytes(strings[idx]);
    prefetch(&slots_[hashes[idx] & (slots_.size() - 1)]);
  }
  for (std::size_t idx = 0; idx < strings.size(); ++idx) {
    const Slot slot = slots_[hashes[idx] & (slots_.size() - 1)];
    guesses[idx] = slot.id_plus_1 == 0 ? 0 : slot.id_plus_1 - 1;
    prefetch(&entries_[guesses[idx]]);
  }
  for (std::size_t idx = 0; idx < strings.size(); ++idx) {
    prefetch(blob_.data() + entries_[guesses[idx]].offset);
  }
  for (std::size_t idx = 0; idx < strings.size(); ++idx) {
    const Entry* entry = find(strings[idx], 0, hashes[idx]);
    if (entry != nullptr && (entry->flags & outside_model) == 0) {
      ids[idx] = id_of(entry);
    }
  }
}

std::optional<TokenId> Vocabulary::find_token(std::string_view token) const {
  std::string bytes;
  const bool spelled = append_spelled_bytes(token, bytes);
  const std::string_view key = spelled ? std::string_view(bytes) : token;
  const Entry* entry = find(key, spelled ? 0 : verbatim, hash_bytes(key));
  if (entry == nullptr) {
    return std::nullopt;
  }
  return id_of(entry);
}

std::optional<TokenId>
Vocabulary::find_model_token(std::string_view token) const {
  const auto id = find_token(token);
  if (!id || (entries_[*id].flags & outside_model) != 0) {
    return std::nullopt;
  }
  return id;
}

std::string Vocabulary::token(TokenId id) const {
  const bool spelled = has(id) && (entries_[id].flags & verbatim) == 0;
  return spelled ? spell_bytes(bytes(id)) : std::string(bytes(id));
}

} // namespace qwen3_mlx
