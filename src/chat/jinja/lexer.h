// SPDX-License-Identifier: MIT
// Source text -> tokens, by Jinja's rules for the settings that transformers
// uses: trim_blocks, lstrip_blocks, and one newline at the end dropped.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace qwen3_mlx::jinja {

enum class TokenType {
  data,
  variable_begin,
  variable_end,
  block_begin,
  block_end,
  name,
  string,
  integer,
  real,
  add,
  assign,
  colon,
  comma,
  div,
  dot,
  eq,
  floordiv,
  gt,
  gteq,
  lbrace,
  lbracket,
  lparen,
  lt,
  lteq,
  mod,
  mul,
  ne,
  pipe,
  pow,
  rbrace,
  rbracket,
  rparen,
  semicolon,
  sub,
  tilde,
  eof
};

struct Token {
  TokenType type;
  std::uint32_t pos;
  std::string text; ///< Unescaped for a string, digits for a number.
};

/// A fault of the source, at a byte of it.
struct SyntaxFault {
  std::uint32_t pos;
  std::string reason;
};

/// Line endings as "\n", the last one dropped: what positions refer to.
std::string normalize_source(std::string_view source);

/// Throws SyntaxFault.
std::vector<Token> tokenize(std::string_view normalized_source);

/// What an error message calls a token.
std::string describe(const Token& token);
std::string describe(TokenType type);

} // namespace qwen3_mlx::jinja
