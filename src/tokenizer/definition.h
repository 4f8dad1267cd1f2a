// SPDX-License-Identifier: MIT
// What a tokenizer file says, checked: the loaders make it, make_tokenizer()
// takes it.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "qwen3_mlx/tokenizer.h"
#include "tokenizer/bpe.h"
#include "tokenizer/merge_table.h"
#include "tokenizer/vocabulary.h"

namespace qwen3_mlx {

/// How text is cut into pieces; see split_patterns.h for the regexes.
enum class SplitStep : std::uint8_t {
  Qwen2,
  Qwen35,
  Llama3,
  Gpt2,
  Digits,      ///< Numbers one by one.
  DigitRuns,   ///< Runs of numbers.
  PrefixSpace, ///< No cut: puts a space before what does not begin with one.
};

struct TokenizerDefinition {
  Vocabulary vocabulary; ///< With the added tokens.
  MergeTable merges;
  BpeOptions bpe;
  bool nfc = false;
  /// Each step cuts the pieces of the one before; none leaves text whole.
  std::vector<SplitStep> steps;
  std::vector<AddedToken> added_tokens; ///< Every id once, none empty.
  std::vector<bool> is_added;           ///< By id; may be shorter.
  std::vector<TokenId> prefix;          ///< Ids before a text, on request.
  std::vector<TokenId> suffix;
  std::optional<TokenId> bos_id;
  std::optional<TokenId> eos_id;
  std::optional<TokenId> pad_id;
  TokenId min_id_limit = 0; ///< The model's vocab_size, where known.
};

inline bool is_added(const TokenizerDefinition& definition, TokenId id) {
  return id < definition.is_added.size() && definition.is_added[id];
}

Tokenizer make_tokenizer(TokenizerDefinition definition);

} // namespace qwen3_mlx
