// SPDX-License-Identifier: MIT
#include "tokenizer/encoder.h"

#include <simdjson.h>

#include <string>

#include "base/utf8.h"
#include "tokenizer/hash.h"
#include "tokenizer/nfc.h"
#include "tokenizer/split_patterns.h"

namespace qwen3_mlx {
namespace {

class Encoder {
 public:
  Encoder(const TokenizerState& state, EncodeContext& context, IdSink& out)
      : definition_(state.definition), state_(state), context_(context),
        out_(out) {}

  /// `text` is valid UTF-8.
  void encode(std::string_view text, bool parse_special) {
    const auto push = [&](TokenId id) { out_.push(id); };
    state_.raw.split(
        text,
        parse_special,
        [&](std::string_view stretch) {
          const auto nfc = definition_.nfc ? to_nfc(stretch) : std::nullopt;
          state_.normalized.split(
              nfc ? std::string_view(*nfc) : stretch,
              parse_special,
              [&](std::string_view plain) { split(plain, 0); },
              push);
        },
        push);
  }

 private:
  /// Cuts `text` by the steps from `step` on and encodes the pieces.
  void split(std::string_view text, std::size_t step) {
    if (step == definition_.steps.size()) {
      encode_piece(text.data(), text.size(), text.size());
      return;
    }
    switch (definition_.steps[step]) {
    case SplitStep::Qwen2:
      return split_by<split::Qwen2>(text, step);
    case SplitStep::Qwen35:
      return split_by<split::Qwen35>(text, step);
    case SplitStep::Llama3:
      return split_by<split::Llama3>(text, step);
    case SplitStep::Gpt2:
      return split_by<split::Gpt2>(text, step);
    case SplitStep::Digits:
      return split_by<split::Digits</* individual */ true>>(text, step);
    case SplitStep::DigitRuns:
      return split_by<split::Digits</* individual */ false>>(text, step);
    case SplitStep::PrefixSpace:
      return text.front() == ' ' ? split(text, step + 1)
                                 : split(' ' + std::string(text), step + 1);
    }
  }

  template <typename Pattern>
  void split_by(std::string_view text, std::size_t step) {
    const char* data = text.data();
    const std::size_t end = text.size();
    if (step + 1 < definition_.steps.size()) {
      for (std::size_t pos = 0; pos < end;) {
        const std::size_t stop = Pattern::piece_end(data, pos, end);
        split(text.substr(pos, stop - pos), step + 1);
        pos = stop;
      }
      return;
    }
    for (std::size_t pos = 0; pos < end;) {
      const std::size_t stop = Pattern::piece_end(data, pos, end);
      encode_piece(data + pos, stop - pos, end - pos);
      pos = stop;
    }
  }

  /// `readable` bytes may be read from `data`.
  void encode_piece(const char* data, std::size_t size, std::size_t readable) {
    if (size > PieceCache::max_short) {
      encode_long(std::string_view(data, size));
      return;
    }
    const auto key = PieceCache::short_key(data, size, readable);
    if (context_.cache.find(key, out_)) {
      return;
    }
    const std::size_t before = out_.size();
    encode_long(std::string_view(data, size));
    context_.cache.add(key, out_.data() + before, out_.size() - before);
  }

  void encode_long(std::string_view piece) {
    if (piece.size() > PieceCache::max_long) {
      merge(piece);
      return;
    }
    const auto hash = hash_bytes(piece);
    if (context_.cache.find_long(piece, hash, out_)) {
      return;
    }
    const std::size_t before = out_.size();
    merge(piece);
    const std::size_t count = out_.size() - before;
    // What the cache of short pieces takes would only crowd this one.
    if (piece.size() > PieceCache::max_short || count == 0 ||
        count > PieceCache::max_short_ids) {
      context_.cache.add_long(piece, hash, out_.data() + before, count);
    }
  }

  void merge(std::string_view piece) {
    state_.bpe.encode(definition_.vocabulary, piece, context_.scratch, out_);
  }

  const TokenizerDefinition& definition_;
  const TokenizerState& state_;
  EncodeContext& context_;
  IdSink& out_;
};

} // namespace

void encode_text(
    const TokenizerState& state,
    std::string_view text,
    const EncodeOptions& options,
    EncodeContext& context,
    IdSink& out) {
  const auto& [prefix, suffix] =
      std::tie(state.definition.prefix, state.definition.suffix);
  if (options.add_special_tokens) {
    for (const TokenId id : prefix) {
      out.push(id);
    }
  }
  Encoder encoder(state, context, out);
  if (simdjson::validate_utf8(text.data(), text.size())) {
    encoder.encode(text, options.parse_special);
  } else {
    encoder.encode(replace_invalid_utf8(text), options.parse_special);
  }
  if (options.add_special_tokens) {
    for (const TokenId id : suffix) {
      out.push(id);
    }
  }
}

} // namespace qwen3_mlx
