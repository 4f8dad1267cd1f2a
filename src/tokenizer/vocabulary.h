// SPDX-License-Identifier: MIT
// Every token of a tokenizer, by id and by string, in one blob of bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace qwen3_mlx {

using TokenId = std::uint32_t;

/// Ids must be below this, so that tables indexed by id stay small whatever a
/// file says. Known vocabularies end near 2^18.
inline constexpr TokenId max_token_id = (1u << 22) - 1;

class Vocabulary {
 public:
  enum class Insert { done, duplicate_token, duplicate_id };

  /// What find_bytes() gives for bytes that are no token.
  static constexpr TokenId not_found = UINT32_MAX;

  void reserve(std::size_t num_tokens, std::size_t n_bytes);

  /// Adds a token of the model by its string in the byte alphabet. A string
  /// with other characters is kept as it is: no text can reach such a token.
  /// False when the id is taken. Tokens are found after index().
  bool add(std::string_view token, TokenId id);
  /// Makes the tokens of add() ready to be found, all at once, which is several
  /// times as fast as one by one. The id of a token that occurs twice, if any.
  std::optional<TokenId> index();
  /// Adds a token that only the added-token search can produce; after index().
  Insert add_outside_model(std::string_view token, TokenId id);

  /// The model's token for raw bytes.
  std::optional<TokenId> find_bytes(std::string_view bytes) const;
  /// The same for up to batch_size strings, whose cache misses overlap.
  void find_bytes(
      std::span<const std::string_view> strings,
      std::span<TokenId> ids) const;
  static constexpr std::size_t batch_size = 64;

  /// The token (of the model or not) for a string of the vocabulary file.
  std::optional<TokenId> find_token(std::string_view token) const;
  /// As find_token, but only tokens of the model.
  std::optional<TokenId> find_model_token(std::string_view token) const;

  bool has(TokenId id) const {
    return id < entries_.size() && (entries_[id].flags & present) != 0;
  }
  /// The bytes `id` decodes to; empty when it is no token.
  std::string_view bytes(TokenId id) const {
    return has(id) ? view(entries_[id]) : std::string_view{};
  }
  /// Whether `id` is the model's token for raw bytes.
  bool spells(TokenId id, std::string_view bytes) const {
    return id < entries_.size() && entries_[id].flags == present &&
        view(entries_[id]) == bytes;
  }
  /// The string of the vocabulary file.
  std::string token(TokenId id) const;

  std::size_t size() const {
    return num_tokens_;
  }
  /// The largest id + 1.
  TokenId id_end() const {
    return static_cast<TokenId>(entries_.size());
  }

 private:
  static constexpr std::uint8_t present = 1;
  static constexpr std::uint8_t verbatim = 2; // Not spelled in the alphabet.
  static constexpr std::uint8_t outside_model = 4;

  struct Entry {
    std::uint32_t offset = 0;
    std::uint32_t size : 24 = 0;
    std::uint32_t flags : 8 = 0;
  };
  // The hash's upper half saves most look-ups from reading the blob.
  struct Slot {
    std::uint32_t tag = 0;
    TokenId id_plus_1 = 0;
  };

  std::string_view view(const Entry& entry) const {
    return {blob_.data() + entry.offset, entry.size};
  }
  bool append(std::string_view token, TokenId id, std::uint8_t flags);
  const Entry*
  find(std::string_view bytes, std::uint8_t kind, std::uint64_t hash) const;
  void insert(TokenId id, std::uint64_t hash);
  TokenId id_of(const Entry* entry) const {
    return static_cast<TokenId>(entry - entries_.data());
  }

  std::string blob_;
  std::vector<Entry> entries_;
  std::vector<Slot> slots_;
  std::size_t num_tokens_ = 0;
};

} // namespace qwen3_mlx
