// SPDX-License-Identifier: MIT
#include "tokenizer/tokenizer_state.h"

#include <algorithm>
#include <utility>

#include "tokenizer/nfc.h"

namespace qwen3_mlx {

std::unique_ptr<EncodeContext> ContextPool::take() {
  {
    const std::lock_guard lock(mutex_);
    free_.reserve(max_kept); // So that give_back() cannot throw.
    if (!free_.empty()) {
      auto context = std::move(free_.back());
      free_.pop_back();
      return context;
    }
  }
  return std::make_unique<EncodeContext>();
}

void ContextPool::give_back(std::unique_ptr<EncodeContext> context) noexcept {
  const std::lock_guard lock(mutex_);
  if (free_.size() < max_kept) {
    free_.push_back(std::move(context));
  }
}

TokenizerState::TokenizerState(TokenizerDefinition from)
    : definition(std::move(from)),
      bpe(definition.vocabulary, std::move(definition.merges), definition.bpe) {
  id_limit = std::max(definition.vocabulary.id_end(), definition.min_id_limit);
  is_special.resize(definition.vocabulary.id_end());
  auto& added = definition.added_tokens;
  std::vector<AddedTokenMatcher::Pattern> raw_patterns;
  std::vector<AddedTokenMatcher::Pattern> normalized_patterns;
  for (const bool special : {true, false}) {
    for (const AddedToken& token : added) {
      if (token.special != special) {
        continue;
      }
      is_special[token.id] = special;
      if (!token.normalized) {
        raw_patterns.push_back({token.content, token});
        continue;
      }
      auto content = definition.nfc
          ? to_nfc(token.content).value_or(token.content)
          : token.content;
      normalized_patterns.push_back({std::move(content), token});
    }
  }
  raw = AddedTokenMatcher(std::move(raw_patterns));
  normalized = AddedTokenMatcher(std::move(normalized_patterns));
  std::sort(added.begin(), added.end(), [](const auto& a, const auto& b) {
    return a.id < b.id;
  });
}

Tokenizer make_tokenizer(TokenizerDefinition definition) {
  return Tokenizer(
      std::make_shared<const TokenizerState>(std::move(definition)));
}

} // namespace qwen3_mlx
