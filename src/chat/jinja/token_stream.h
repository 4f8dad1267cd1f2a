// SPDX-License-Identifier: MIT
// The parser's view of the tokens: the current one, the next, and checks.
#pragma once

#include <initializer_list>
#include <utility>
#include <vector>

#include "chat/jinja/lexer.h"

namespace qwen3_mlx::jinja {

class TokenStream {
 public:
  explicit TokenStream(std::vector<Token> tokens)
      : tokens_(std::move(tokens)) {}

  const Token& current() const {
    return tokens_[at_];
  }
  const Token& look() const {
    return tokens_[at_ + 1 < tokens_.size() ? at_ + 1 : at_];
  }
  std::uint32_t pos() const {
    return current().pos;
  }
  /// Goes one ahead and returns what was current.
  const Token& next() {
    const Token& token = tokens_[at_];
    if (at_ + 1 < tokens_.size()) {
      ++at_;
    }
    return token;
  }

  bool is(TokenType type) const {
    return current().type == type;
  }
  bool is_name(std::string_view word) const {
    return is(TokenType::name) && current().text == word;
  }
  bool is_name(const std::vector<std::string_view>& words) const {
    for (std::string_view word : words) {
      if (is_name(word)) {
        return true;
      }
    }
    return false;
  }
  bool skip_if(TokenType type) {
    bool fits = is(type);
    if (fits) {
      next();
    }
    return fits;
  }
  bool skip_if_name(std::string_view word) {
    bool fits = is_name(word);
    if (fits) {
      next();
    }
    return fits;
  }

  [[noreturn]] void fail(std::string reason, std::uint32_t at) const {
    throw SyntaxFault{at, std::move(reason)};
  }
  [[noreturn]] void fail(std::string reason) const {
    fail(std::move(reason), pos());
  }
  [[noreturn]] void fail_expected(const std::string& expected) const {
    fail(
        is(TokenType::eof)
            ? "unexpected end of template, expected '" + expected + "'"
            : "expected token '" + expected + "', got '" + describe(current()) +
                "'");
  }
  const Token& expect(TokenType type) {
    if (!is(type)) {
      fail_expected(describe(type));
    }
    return next();
  }
  const Token& expect_name(std::string_view word) {
    if (!is_name(word)) {
      fail_expected(std::string(word));
    }
    return next();
  }

 private:
  std::vector<Token> tokens_;
  std::size_t at_ = 0;
};

} // namespace qwen3_mlx::jinja
