// SPDX-License-Identifier: MIT
// The grammar of expressions.
#pragma once

#include "chat/jinja/ast.h"
#include "chat/jinja/token_stream.h"

namespace qwen3_mlx::jinja {

class ExpressionParser {
 public:
  explicit ExpressionParser(TokenStream& stream) : stream_(stream) {}

  /// Which words end a tuple besides brackets and tag ends.
  struct TupleOptions {
    bool names_only = false; ///< Names and literals, as the target of a for.
    bool with_conditional = true;
    std::string_view end_word = {};
    bool in_parentheses = false;
    bool with_namespace = false;
  };

  Expr expression(bool with_conditional = true);
  Expr tuple(const TupleOptions& options);
  Expr tuple() {
    return tuple(TupleOptions{});
  }
  /// What `set` or `for` assigns to; its names have Use::store.
  Expr
  assign_target(std::string_view end_word = {}, bool with_namespace = false);
  std::string target_name();
  /// A chain of filters; with `start_inline` the first has no "|".
  ExprPtr filter(ExprPtr input, bool start_inline);

 private:
  Expr make(std::uint32_t pos, decltype(Expr::node) node, int height);
  Expr conditional();
  Expr logical_or();
  Expr logical_and();
  Expr logical_not();
  Expr compare();
  Expr sum();
  Expr concat();
  Expr product();
  Expr power();
  Expr unary(bool with_filter = true);
  Expr primary(bool with_namespace = false);
  Expr postfix(Expr expr);
  Expr filters_and_tests(Expr expr);
  Expr subscript(Expr object);
  Expr subscript_key();
  Expr list();
  Expr dict();
  Expr call(Expr callee);
  Expr test(Expr input);
  CallArgs call_args();
  std::string dotted_name();
  Expr binary(Expr left, std::uint32_t pos, BinaryOp op, Expr right);

  TokenStream& stream_;
  int depth_ = 0;
};

} // namespace qwen3_mlx::jinja
