// SPDX-License-Identifier: MIT
// Visits the expressions of a tree in the order of Jinja's node fields, which
// its scoping rules depend on.
#pragma once

#include "chat/jinja/ast.h"

namespace qwen3_mlx::jinja {

/// Calls f(Expr&) for `expr` and everything in it, outer ones first.
template <class F>
void walk(Expr& expr, F&& f);

template <class F>
void walk(const ExprPtr& expr, F&& f) {
  if (expr) {
    walk(*expr, f);
  }
}

template <class F>
void walk(CallArgs& args, F&& f) {
  for (Expr& arg : args.args) {
    walk(arg, f);
  }
  for (auto& [name, value] : args.kwargs) {
    walk(value, f);
  }
  walk(args.dyn_args, f);
  walk(args.dyn_kwargs, f);
}

namespace detail {

template <class F>
struct ExprWalker {
  F& f;

  void all(std::vector<Expr>& items) {
    for (Expr& item : items) {
      walk(item, f);
    }
  }
  void operator()(Literal&) {}
  void operator()(TemplateText&) {}
  void operator()(Name&) {}
  void operator()(NamespaceRef&) {}
  void operator()(TupleExpr& e) {
    all(e.items);
  }
  void operator()(ListExpr& e) {
    all(e.items);
  }
  void operator()(DictExpr& e) {
    for (auto& [key, value] : e.items) {
      walk(key, f);
      walk(value, f);
    }
  }
  void operator()(Unary& e) {
    walk(e.operand, f);
  }
  void operator()(Binary& e) {
    walk(e.left, f);
    walk(e.right, f);
  }
  void operator()(Logical& e) {
    walk(e.left, f);
    walk(e.right, f);
  }
  void operator()(Compare& e) {
    walk(e.first, f);
    for (auto& [op, operand] : e.rest) {
      walk(operand, f);
    }
  }
  void operator()(Concat& e) {
    all(e.parts);
  }
  void operator()(Conditional& e) {
    walk(e.test, f);
    walk(e.then, f);
    walk(e.otherwise, f);
  }
  void operator()(GetAttr& e) {
    walk(e.object, f);
  }
  void operator()(GetItem& e) {
    walk(e.object, f);
    walk(e.key, f);
  }
  void operator()(SliceExpr& e) {
    walk(e.start, f);
    walk(e.stop, f);
    walk(e.step, f);
  }
  void operator()(CallExpr& e) {
    walk(e.callee, f);
    walk(e.args, f);
  }
  void operator()(FilterExpr& e) {
    walk(e.input, f);
    walk(e.args, f);
  }
  void operator()(TestExpr& e) {
    walk(e.input, f);
    walk(e.args, f);
  }
};

} // namespace detail

template <class F>
void walk(Expr& expr, F&& f) {
  f(expr);
  std::visit(detail::ExprWalker<std::remove_reference_t<F>>{f}, expr.node);
}

/// Calls f(Expr&) for every expression of the statements.
template <class F>
void walk(Body& body, bool into_blocks, F&& f);

namespace detail {

template <class F>
struct StmtWalker {
  bool into_blocks;
  F& f;

  void all(std::vector<Expr>& items) {
    for (Expr& item : items) {
      walk(item, f);
    }
  }
  void all(Body& body) {
    walk(body, into_blocks, f);
  }
  void macro(MacroBody& m) {
    all(m.params);
    all(m.defaults);
    all(m.body);
  }
  void operator()(Output& s) {
    all(s.parts);
  }
  void operator()(For& s) {
    walk(s.target, f);
    walk(s.iter, f);
    all(s.body);
    all(s.otherwise);
    walk(s.test, f);
  }
  void operator()(If& s) {
    for (If::Branch& branch : s.branches) {
      walk(branch.test, f);
      all(branch.body);
    }
    all(s.otherwise);
  }
  void operator()(MacroStmt& s) {
    macro(s.macro);
  }
  void operator()(CallBlock& s) {
    walk(s.call, f);
    macro(s.macro);
  }
  void operator()(Generation& s) {
    macro(s.macro);
  }
  void operator()(FilterBlock& s) {
    all(s.body);
    walk(s.filter, f);
  }
  void operator()(With& s) {
    all(s.targets);
    all(s.values);
    all(s.body);
  }
  void operator()(Set& s) {
    walk(s.target, f);
    walk(s.value, f);
  }
  void operator()(SetBlock& s) {
    walk(s.target, f);
    walk(s.filter, f);
    all(s.body);
  }
  void operator()(Scope& s) {
    walk(s.option, f);
    all(s.body);
  }
  void operator()(Block& s) {
    if (into_blocks) {
      all(s.body);
    }
  }
  void operator()(NoLoader& s) {
    walk(s.source, f);
  }
  void operator()(Break&) {}
  void operator()(Continue&) {}
};

} // namespace detail

template <class F>
void walk(Body& body, bool into_blocks, F&& f) {
  detail::StmtWalker<std::remove_reference_t<F>> walker{into_blocks, f};
  for (Stmt& stmt : body) {
    std::visit(walker, stmt.node);
  }
}

} // namespace qwen3_mlx::jinja
