// SPDX-License-Identifier: MIT
// Byte-level BPE: the bytes of one piece of text become tokens by applying the
// merge of the lowest rank, leftmost first, until none applies.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "tokenizer/id_sink.h"
#include "tokenizer/merge_table.h"
#include "tokenizer/vocabulary.h"

namespace qwen3_mlx {

/// What a file says about the model besides vocabulary and merges.
struct BpeOptions {
  /// A piece that is a token as a whole is that token, whatever the merges say.
  bool ignore_merges = false;
  /// Stands for a byte that is no token; without it such bytes are dropped.
  std::optional<TokenId> unk_id;
  bool fuse_unk = false; ///< One unk_id for neighbouring unknown bytes.
};

/// Buffers that encode() reuses; one per thread.
struct BpeScratch {
  std::vector<TokenId> ids;
  std::vector<std::uint32_t> ranks;
  std::vector<std::uint32_t> previous;
  std::vector<std::uint32_t> next;
  std::vector<std::uint64_t> queue;
  std::vector<std::uint64_t> sorted;
};

class Bpe {
 public:
  Bpe() = default;
  Bpe(const Vocabulary& vocabulary, MergeTable merges, BpeOptions options);

  /// Appends the tokens of `piece`. O(n log n).
  void encode(
      const Vocabulary& vocabulary,
      std::string_view piece,
      BpeScratch& scratch,
      IdSink& out) const;

 private:
  std::size_t start(std::string_view piece, TokenId* ids) const;
  void merge_short(std::size_t size, TokenId* ids, IdSink& out) const;
  void merge_long(std::size_t size, BpeScratch& scratch, IdSink& out) const;

  static constexpr TokenId no_token = UINT32_MAX;

  MergeTable merges_;
  BpeOptions options_;
  std::array<TokenId, 256> byte_ids_{};
};

} // namespace qwen3_mlx
