// SPDX-License-Identifier: MIT
#include "tokenizer/vocabulary.h"

#include <algorithm>
#include <bit>
#include <stdexcept>

#include "tokenizer/byte_level.h"
#include "tokenizer/hash.h"

namespace qwen3_mlx {
namespace {

constexpr std::size_t min_slots = 64;

} // namespace

void Vocabulary::reserve(std::size_t num_tokens, std::size_t n_bytes) {
  blob_.reserve(n_bytes);
  entries_.reserve(num_tokens);
  grow(std::bit_ceil(std::max(min_slots, num_tokens + num_tokens / 2)));
}

Vocabulary::Insert Vocabulary::add(std::string_view token, TokenId id) {
  return insert(token, id, present);
}

Vocabulary::Insert
Vocabulary::add_outside_model(std::string_view token, TokenId id) {
  return insert(token, id, present | outside_model);
}

Vocabulary::Insert
Vocabulary::insert(std::string_view token, TokenId id, std::uint8_t flags) {
  if (has(id)) {
    return Insert::duplicate_id;
  }
  // A token is at most 16 MiB and the blob 4 GiB: the loader bounds the file,
  // this bounds the fields.
  const auto offset = blob_.size();
  if (token.size() >= (1u << 24) || offset + token.size() > UINT32_MAX) {
    throw std::length_error("a vocabulary of more than 4 GiB");
  }
  if (!append_spelled_bytes(token, blob_)) {
    blob_ += token;
    flags |= verbatim;
  }
  const std::string_view bytes(blob_.data() + offset, blob_.size() - offset);
  const auto hash = hash_bytes(bytes);
  if (find(bytes, flags & verbatim, hash) != nullptr) {
    blob_.resize(offset);
    return Insert::duplicate_token;
  }
  if (id >= entries_.size()) {
    entries_.resize(id + std::size_t{1});
  }
  Entry& entry = entries_[id];
  entry.offset = static_cast<std::uint32_t>(offset);
  entry.size = static_cast<std::uint32_t>(bytes.size()) & 0xFFFFFF;
  entry.flags = flags;
  ++num_tokens_;
  if (slots_.size() < num_tokens_ + num_tokens_ / 2) {
    grow(std::max(min_slots, slots_.size() * 2)); // Inserts this one, too.
    return Insert::done;
  }
  auto idx = hash & (slots_.size() - 1);
  while (slots_[idx].id_plus_1 != 0) {
    idx = (idx + 1) & (slots_.size() - 1);
  }
  slots_[idx] = {static_cast<std::uint32_t>(hash >> 32), id + 1};
  return Insert::done;
}

void Vocabulary::grow(std::size_t num_slots) {
  slots_.assign(num_slots, {});
  for (TokenId id = 0; id < entries_.size(); ++id) {
    if (!has(id)) {
      continue;
    }
    const auto hash = hash_bytes(view(entries_[id]));
    auto idx = hash & (num_slots - 1);
    while (slots_[idx].id_plus_1 != 0) {
      idx = (idx + 1) & (num_slots - 1);
    }
    slots_[idx] = {static_cast<std::uint32_t>(hash >> 32), id + 1};
  }
}

const Vocabulary::Slot* Vocabulary::find(
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
        return &slots_[idx];
      }
    }
    idx = (idx + 1) & (slots_.size() - 1);
  }
  return nullptr;
}

std::optional<TokenId> Vocabulary::find_bytes(std::string_view bytes) const {
  const Slot* slot = find(bytes, 0, hash_bytes(bytes));
  if (slot == nullptr ||
      (entries_[slot->id_plus_1 - 1].flags & outside_model) != 0) {
    return std::nullopt;
  }
  return slot->id_plus_1 - 1;
}

std::optional<TokenId> Vocabulary::find_token(std::string_view token) const {
  std::string bytes;
  const bool spelled = append_spelled_bytes(token, bytes);
  const std::string_view key = spelled ? std::string_view(bytes) : token;
  const Slot* slot = find(key, spelled ? 0 : verbatim, hash_bytes(key));
  if (slot == nullptr) {
    return std::nullopt;
  }
  return slot->id_plus_1 - 1;
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
