// SPDX-License-Identifier: MIT
// The ids of pieces seen before. Text repeats its words, so most pieces cost
// one look-up here instead of their merges. One cache serves one thread at a
// time; it has a fixed size and forgets.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string_view>

#include "tokenizer/hash.h"
#include "tokenizer/id_sink.h"

namespace qwen3_mlx {

/// masks[size] keeps the bytes of a piece of `size` that lie in the 8 bytes
/// behind `skip`.
constexpr std::array<std::uint64_t, 16> make_piece_masks(std::size_t skip) {
  std::array<std::uint64_t, 16> masks{};
  for (std::size_t size = 0; size < masks.size(); ++size) {
    const std::size_t n_bytes =
        std::min<std::size_t>(size > skip ? size - skip : 0, 8);
    masks[size] =
        n_bytes == 8 ? UINT64_MAX : (std::uint64_t{1} << (8 * n_bytes)) - 1;
  }
  return masks;
}
inline constexpr auto piece_low_masks = make_piece_masks(0);
inline constexpr auto piece_high_masks = make_piece_masks(8);

class PieceCache {
 public:
  /// Pieces up to this have their bytes in two registers.
  static constexpr std::size_t max_short = 15;
  static constexpr std::size_t max_short_ids = 4;
  static constexpr std::size_t max_long = 62;
  static constexpr std::size_t max_long_ids = 16;

  struct ShortKey {
    std::uint64_t low = 0;
    std::uint64_t high = 0; // The uppermost byte is the length.
  };

  PieceCache()
      : short_(std::make_unique<ShortSet[]>(num_short_sets)),
        long_(std::make_unique<LongEntry[]>(num_long)) {}

  /// `size` is 1 to max_short; `readable` bytes may be read from `data`.
  static ShortKey
  short_key(const char* data, std::size_t size, std::size_t readable) {
    ShortKey key;
    if (readable >= 16) {
      std::memcpy(&key, data, 16);
      key.low &= piece_low_masks[size];
      key.high &= piece_high_masks[size];
    } else {
      std::memcpy(&key, data, size);
    }
    key.high |= std::uint64_t{size} << 56;
    return key;
  }

  /// Appends the ids of a short piece; false when it is not here.
  bool find(ShortKey key, IdSink& out) {
    ShortSet& set = short_set(key);
    const bool is_first = set.entries[0].is(key);
    const ShortEntry& entry = set.entries[is_first ? 0 : 1];
    if (!entry.is(key)) {
      return false;
    }
    // Four ids are always written, and as many counted as there are.
    std::memcpy(out.reserve(0), entry.ids.data(), sizeof(entry.ids));
    out.advance(
        std::size_t{1} + (entry.ids[1] != no_id) + (entry.ids[2] != no_id) +
        (entry.ids[3] != no_id));
    return true;
  }

  void add(ShortKey key, const std::uint32_t* ids, std::size_t count) {
    if (count == 0 || count > max_short_ids) {
      return;
    }
    ShortSet& set = short_set(key);
    set.entries[1] = set.entries[0];
    ShortEntry& entry = set.entries[0];
    entry.key = key;
    entry.ids.fill(no_id);
    std::copy_n(ids, count, entry.ids.begin());
  }

  /// As find(), for any piece up to max_long.
  bool find_long(std::string_view piece, std::uint64_t hash, IdSink& out) {
    const LongEntry& entry = long_[hash >> long_shift];
    if (entry.size != piece.size() ||
        std::memcmp(entry.bytes.data(), piece.data(), piece.size()) != 0) {
      return false;
    }
    std::copy_n(entry.ids.begin(), entry.count, out.reserve(entry.count));
    out.advance(entry.count);
    return true;
  }

  void add_long(
      std::string_view piece,
      std::uint64_t hash,
      const std::uint32_t* ids,
      std::size_t count) {
    if (count > max_long_ids) {
      return;
    }
    LongEntry& entry = long_[hash >> long_shift];
    entry.size = static_cast<std::uint8_t>(piece.size());
    entry.count = static_cast<std::uint8_t>(count);
    std::copy_n(piece.data(), piece.size(), entry.bytes.begin());
    std::copy_n(ids, count, entry.ids.begin());
  }

 private:
  static constexpr std::uint32_t no_id = UINT32_MAX;
  // 1 MiB and 256 KiB: the words of a long document, within the second cache.
  static constexpr int short_bits = 14;
  static constexpr std::size_t num_short_sets = std::size_t{1} << short_bits;
  static constexpr int long_shift = 64 - 11;
  static constexpr std::size_t num_long = std::size_t{1} << 11;

  struct ShortEntry {
    ShortKey key;
    std::array<std::uint32_t, max_short_ids> ids{};

    bool is(ShortKey other) const {
      return ((key.low ^ other.low) | (key.high ^ other.high)) == 0;
    }
  };
  // Two entries a cache line: a word that comes once does not drive out the
  // one before it.
  struct alignas(64) ShortSet {
    std::array<ShortEntry, 2> entries;
  };
  struct LongEntry {
    std::uint8_t size = 0; // 0: empty, no piece is.
    std::uint8_t count = 0;
    std::array<char, max_long> bytes{};
    std::array<std::uint32_t, max_long_ids> ids{};
  };

  ShortSet& short_set(ShortKey key) {
    return short_[hash_words(key.low, key.high) >> (64 - short_bits)];
  }

  std::unique_ptr<ShortSet[]> short_;
  std::unique_ptr<LongEntry[]> long_;
};

} // namespace qwen3_mlx
