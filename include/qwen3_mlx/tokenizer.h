// SPDX-License-Identifier: MIT
// Text to token ids and back, for byte-level BPE vocabularies: the ids are
// those of Python `tokenizers` for the same file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace qwen3_mlx {

struct TokenizerState;

/// A token that is searched for in the text before everything else.
struct AddedToken {
  std::uint32_t id = 0;
  std::string content;
  bool single_word = false; ///< Not matched beside a word character.
  bool lstrip = false;      ///< Swallows the white space before it.
  bool rstrip = false;      ///< Swallows the white space after it.
  bool normalized = false;  ///< Searched for after normalization, not before.
  bool special = false; ///< Control token: left out of decoded text on request.
};

struct EncodeOptions {
  /// Adds what the post-processor adds around a text, as a bos token.
  bool add_special_tokens = false;
  /// False: the text of special tokens is plain text. Tokens that are added but
  /// not special, as <think>, are still found.
  bool parse_special = true;
};

/// A cheap handle on shared, constant state. All members may be called from
/// several threads at once.
class Tokenizer {
 public:
  /// For loaders: see load_tokenizer.
  explicit Tokenizer(std::shared_ptr<const TokenizerState> state);

  /// Token ids of `text`. Bytes that are not UTF-8 are replaced by U+FFFD
  /// first, as Python's errors="replace" does.
  std::vector<std::uint32_t>
  encode(std::string_view text, bool add_special_tokens = false) const;
  std::vector<std::uint32_t>
  encode(std::string_view text, const EncodeOptions& options) const;

  /// Encodes each text; `num_threads` 0 uses every core.
  std::vector<std::vector<std::uint32_t>> encode_batch(
      std::span<const std::string> texts,
      const EncodeOptions& options = {},
      std::size_t num_threads = 0) const;

  /// The text of `ids`, with U+FFFD for what is not UTF-8. Ids below id_limit()
  /// that are no token (padding rows of the model) add nothing. Throws
  /// InvalidArgument for an id from id_limit() on.
  std::string decode(
      std::span<const std::uint32_t> ids,
      bool skip_special_tokens = false) const;

  /// The bytes one id stands for, which need not be whole UTF-8. Throws as
  /// decode() does. The view lives as long as any copy of this tokenizer.
  std::string_view token_bytes(std::uint32_t id) const;

  /// The vocabulary's own string for `id`, as "Ġhello", or the content of an
  /// added token.
  std::optional<std::string> id_to_token(std::uint32_t id) const;
  std::optional<std::uint32_t> token_to_id(std::string_view token) const;

  /// Number of tokens, added ones included.
  std::size_t vocab_size() const;
  /// All ids are below this: the largest id + 1, or config.json's vocab_size
  /// where that is larger (models pad their embedding).
  std::uint32_t id_limit() const;

  /// True for added tokens that are special; false for any other id.
  bool is_special(std::uint32_t id) const;

  std::optional<std::uint32_t> bos_id() const;
  std::optional<std::uint32_t> eos_id() const;
  std::optional<std::uint32_t> pad_id() const;
  std::optional<std::string> bos_token() const;
  std::optional<std::string> eos_token() const;
  std::optional<std::string> pad_token() const;

  /// In the order of their ids.
  const std::vector<AddedToken>& added_tokens() const;

 private:
  std::shared_ptr<const TokenizerState> state_;
};

/// Reads tokenizer.json (with tokenizer_config.json, special_tokens_map.json,
/// added_tokens.json and config.json's vocab_size beside it), or the
/// tokenizer in a .gguf. `path` is a model directory or one of the two files.
/// Throws FileError or FieldError; what this library does not know is named,
/// never guessed.
Tokenizer load_tokenizer(const std::filesystem::path& path);

/// Decodes ids one by one and only ever hands out complete UTF-8. All pieces
/// together are what decode() gives for all ids.
class StreamingDetokenizer {
 public:
  explicit StreamingDetokenizer(
      Tokenizer tokenizer,
      bool skip_special_tokens = true);

  /// The text that `id` completes; empty while a character is incomplete.
  /// Throws InvalidArgument as decode() does.
  std::string add(std::uint32_t id);
  /// The rest, with U+FFFD for an incomplete character. Starts anew.
  std::string finish();

 private:
  Tokenizer tokenizer_;
  bool skip_special_tokens_;
  std::string pending_;
};

} // namespace qwen3_mlx
