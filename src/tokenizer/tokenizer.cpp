// SPDX-License-Identifier: MIT
#include "qwen3_mlx/tokenizer.h"

#include <simdjson.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>

#include "base/utf8.h"
#include "qwen3_mlx/error.h"
#include "tokenizer/encoder.h"
#include "tokenizer/tokenizer_state.h"

namespace qwen3_mlx {
namespace {

// Below this a thread costs more than it saves.
constexpr std::size_t min_bytes_per_thread = std::size_t{1} << 15;

std::vector<TokenId> encode_one(
    const TokenizerState& state,
    std::string_view text,
    const EncodeOptions& options,
    EncodeContext& context) {
  // English has about 4.5 bytes a token; the sink grows for other text.
  IdSink out(text.size() / 4 + 16);
  encode_text(state, text, options, context, out);
  return std::move(out).take();
}

std::optional<std::string>
token_of(const Tokenizer& tokenizer, std::optional<TokenId> id) {
  return id ? tokenizer.id_to_token(*id) : std::nullopt;
}

} // namespace

Tokenizer::Tokenizer(std::shared_ptr<const TokenizerState> state)
    : state_(std::move(state)) {}

std::vector<TokenId>
Tokenizer::encode(std::string_view text, bool add_special_tokens) const {
  return encode(text, EncodeOptions{.add_special_tokens = add_special_tokens});
}

std::vector<TokenId>
Tokenizer::encode(std::string_view text, const EncodeOptions& options) const {
  ContextPool::Lease context(state_->contexts);
  return encode_one(*state_, text, options, *context);
}

std::vector<std::vector<TokenId>> Tokenizer::encode_batch(
    std::span<const std::string> texts,
    const EncodeOptions& options,
    std::size_t num_threads) const {
  std::vector<std::vector<TokenId>> results(texts.size());
  std::size_t n_bytes = 0;
  for (const std::string& text : texts) {
    n_bytes += text.size();
  }
  if (num_threads == 0) {
    num_threads = std::max(1u, std::thread::hardware_concurrency());
  }
  num_threads =
      std::min({num_threads, texts.size(), n_bytes / min_bytes_per_thread + 1});

  // Texts differ in length, so threads take them one by one.
  std::atomic<std::size_t> next = 0;
  std::mutex mutex;
  std::exception_ptr failure; // Guarded by mutex.
  const auto work = [&] {
    try {
      ContextPool::Lease context(state_->contexts);
      for (auto idx = next++; idx < texts.size(); idx = next++) {
        results[idx] = encode_one(*state_, texts[idx], options, *context);
      }
    } catch (...) {
      next = texts.size();
      const std::lock_guard lock(mutex);
      failure = std::current_exception();
    }
  };
  std::vector<std::thread> threads;
  try {
    for (std::size_t idx = 1; idx < num_threads; ++idx) {
      threads.emplace_back(work);
    }
  } catch (const std::system_error&) {
    // No more threads to be had: those that run do the work.
  }
  work();
  for (std::thread& thread : threads) {
    thread.join();
  }
  if (failure) {
    std::rethrow_exception(failure);
  }
  return results;
}

std::string Tokenizer::decode(
    std::span<const TokenId> ids,
    bool skip_special_tokens) const {
  std::string bytes;
  bytes.reserve(ids.size() * 4);
  for (const TokenId id : ids) {
    if (!skip_special_tokens || !is_special(id)) {
      bytes += token_bytes(id);
    }
  }
  return simdjson::validate_utf8(bytes.data(), bytes.size())
      ? bytes
      : replace_invalid_utf8(bytes);
}

std::string_view Tokenizer::token_bytes(TokenId id) const {
  if (id >= state_->id_limit) {
    throw InvalidArgument(
        "token id " + std::to_string(id) + " is out of range, expected below " +
        std::to_string(state_->id_limit));
  }
  return state_->definition.vocabulary.bytes(id);
}

std::optional<std::string> Tokenizer::id_to_token(TokenId id) const {
  const Vocabulary& vocabulary = state_->definition.vocabulary;
  return vocabulary.has(id) ? std::optional(vocabulary.token(id))
                            : std::nullopt;
}

std::optional<TokenId> Tokenizer::token_to_id(std::string_view token) const {
  return state_->definition.vocabulary.find_token(token);
}

std::size_t Tokenizer::vocab_size() const {
  return state_->definition.vocabulary.size();
}

TokenId Tokenizer::id_limit() const {
  return state_->id_limit;
}

bool Tokenizer::is_special(TokenId id) const {
  return id < state_->is_special.size() && state_->is_special[id];
}

std::optional<TokenId> Tokenizer::bos_id() const {
  return state_->definition.bos_id;
}
std::optional<TokenId> Tokenizer::eos_id() const {
  return state_->definition.eos_id;
}
std::optional<TokenId> Tokenizer::pad_id() const {
  return state_->definition.pad_id;
}
std::optional<std::string> Tokenizer::bos_token() const {
  return token_of(*this, bos_id());
}
std::optional<std::string> Tokenizer::eos_token() const {
  return token_of(*this, eos_id());
}
std::optional<std::string> Tokenizer::pad_token() const {
  return token_of(*this, pad_id());
}

const std::vector<AddedToken>& Tokenizer::added_tokens() const {
  return state_->definition.added_tokens;
}

} // namespace qwen3_mlx
