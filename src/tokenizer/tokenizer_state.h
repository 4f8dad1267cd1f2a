// SPDX-License-Identifier: MIT
// What the copies of a Tokenizer share.
#pragma once

#include <memory>
#include <mutex>
#include <vector>

#include "tokenizer/added_token_matcher.h"
#include "tokenizer/bpe.h"
#include "tokenizer/definition.h"
#include "tokenizer/piece_cache.h"

namespace qwen3_mlx {

/// What a thread needs while it encodes. Kept between calls, because a warm
/// cache is most of the speed.
struct EncodeContext {
  PieceCache cache;
  BpeScratch scratch;
};

/// Lends contexts to threads. A context is about 1.3 MiB; only a few are kept.
class ContextPool {
 public:
  class Lease {
   public:
    explicit Lease(ContextPool& pool) : pool_(pool), context_(pool.take()) {}
    ~Lease() {
      pool_.give_back(std::move(context_));
    }
    Lease(const Lease&) = delete;
    Lease& operator=(const Lease&) = delete;

    EncodeContext& operator*() {
      return *context_;
    }

   private:
    ContextPool& pool_;
    std::unique_ptr<EncodeContext> context_;
  };

 private:
  static constexpr std::size_t max_kept = 8;

  std::unique_ptr<EncodeContext> take();
  void give_back(std::unique_ptr<EncodeContext> context) noexcept;

  std::mutex mutex_;
  std::vector<std::unique_ptr<EncodeContext>> free_; // Guarded by mutex_.
};

struct TokenizerState {
  explicit TokenizerState(TokenizerDefinition from);

  TokenizerDefinition definition;
  Bpe bpe;
  std::vector<bool> is_special; // By id.
  TokenId id_limit = 0;
  AddedTokenMatcher raw;        // Searched for in the text as it came.
  AddedTokenMatcher normalized; // Searched for behind the normalizer.
  mutable ContextPool contexts;
};

} // namespace qwen3_mlx
