// SPDX-License-Identifier: MIT
// The syntax tree of a template. Names are resolved to slots by scope.cpp.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "chat/jinja/value.h"

namespace qwen3_mlx::jinja {

struct Expr;
struct Stmt;
struct DictItem;
struct ComparePart;
struct KeywordArg;
using ExprPtr = std::unique_ptr<Expr>;
using Body = std::vector<Stmt>;

/// Where a variable lives: `hops` functions outwards, then the slot there.
struct SlotRef {
  int hops = 0;
  int index = 0;
};

struct Literal {
  Value value;
};
struct TemplateText {
  Value text;
};
struct Name {
  enum class Use { load, store, param };
  std::string name;
  Use use = Use::load;
  SlotRef slot;
};
/// `ns.attr` as the target of a set.
struct NamespaceRef {
  std::string name;
  std::string attribute;
  SlotRef slot;
};
struct TupleExpr {
  std::vector<Expr> items;
};
struct ListExpr {
  std::vector<Expr> items;
};
struct DictExpr {
  std::vector<DictItem> items;
};
enum class UnaryOp { neg, pos, logical_not };
struct Unary {
  UnaryOp op;
  ExprPtr operand;
};
enum class BinaryOp { add, sub, mul, div, floordiv, mod, pow };
struct Binary {
  BinaryOp op;
  ExprPtr left, right;
};
struct Logical {
  bool is_and;
  ExprPtr left, right;
};
enum class CompareOp { eq, ne, lt, lteq, gt, gteq, in, not_in };
struct Compare {
  ExprPtr first;
  std::vector<ComparePart> rest;
};
struct Concat {
  std::vector<Expr> parts;
};
struct Conditional {
  ExprPtr test, then, otherwise; ///< `otherwise` may be null.
};
struct GetAttr {
  ExprPtr object;
  std::string attribute;
};
struct GetItem {
  ExprPtr object, key;
  /// In a constant that is printed: Jinja computes it when it compiles, where
  /// what cannot be sliced is undefined and no error.
  bool is_constant = false;
};
/// Only as the key of a GetItem. Each part may be null.
struct SliceExpr {
  ExprPtr start, stop, step;
};
struct CallArgs {
  std::vector<Expr> args;
  std::vector<KeywordArg> kwargs;
  ExprPtr dyn_args, dyn_kwargs;
};
struct CallExpr {
  ExprPtr callee;
  CallArgs args;
};
struct FilterExpr {
  ExprPtr input; ///< null: the body of a filter block.
  std::string name;
  CallArgs args;
};
struct TestExpr {
  ExprPtr input;
  std::string name;
  CallArgs args;
};

struct Expr {
  std::uint32_t pos = 0; ///< Byte in the source.
  int height = 1;
  std::variant<
      Literal,
      TemplateText,
      Name,
      NamespaceRef,
      TupleExpr,
      ListExpr,
      DictExpr,
      Unary,
      Binary,
      Logical,
      Compare,
      Concat,
      Conditional,
      GetAttr,
      GetItem,
      SliceExpr,
      CallExpr,
      FilterExpr,
      TestExpr>
      node;

  template <class T>
  T* as() {
    return std::get_if<T>(&node);
  }
  template <class T>
  const T* as() const {
    return std::get_if<T>(&node);
  }
};

struct DictItem {
  Expr key, value;
};
struct ComparePart {
  CompareOp op;
  Expr operand;
};
struct KeywordArg {
  std::string name;
  Expr value;
};

/// How a frame's variables start, filled in by scope.cpp.
struct FrameLoads {
  struct Load {
    enum class From { context, alias, nothing };
    From from;
    int slot;
    std::string name; ///< context
    SlotRef source;   ///< alias
  };
  std::vector<Load> loads;
  std::vector<int> all_slots; ///< Emptied when the frame is left.
};

struct Output {
  std::vector<Expr> parts;
};
struct For {
  Expr target, iter;
  Body body, otherwise;
  ExprPtr test;
  bool recursive = false;
  // scope.cpp
  bool extended = false;
  SlotRef loop_slot;
  FrameLoads body_frame, else_frame, test_frame;
  std::unique_ptr<Expr> test_target;
  int test_slots = 0;
  int n_slots = 0; ///< recursive: the loop's own function.
};
struct If {
  struct Branch {
    Expr test;
    Body body;
  };
  std::vector<Branch> branches;
  Body otherwise;
};
/// A macro's or call block's signature and body, a function of its own.
struct MacroBody {
  std::vector<Expr> params;   ///< Names.
  std::vector<Expr> defaults; ///< Of the last params.
  Body body;
  // scope.cpp
  std::vector<int> param_slots;
  FrameLoads frame;
  int n_slots = 0;
  int caller_slot = -1, kwargs_slot = -1, varargs_slot = -1;
  bool explicit_caller = false;
};
struct MacroStmt {
  std::string name;
  MacroBody macro;
  SlotRef slot;
  bool exported = false;
};
struct CallBlock {
  Expr call; ///< A CallExpr.
  MacroBody macro;
};
/// {% generation %}: its body is rendered as a macro of its own.
struct Generation {
  MacroBody macro;
};
struct FilterBlock {
  Expr filter;
  Body body;
  FrameLoads frame;
};
struct With {
  std::vector<Expr> targets, values;
  Body body;
  FrameLoads frame;
};
struct Set {
  Expr target, value;
  std::vector<std::pair<std::string, SlotRef>> exported;
};
struct SetBlock {
  Expr target;
  ExprPtr filter; ///< May be null.
  Body body;
  FrameLoads frame;
  std::vector<std::pair<std::string, SlotRef>> exported;
};
/// {% autoescape %}.
struct Scope {
  Expr option;
  Body body;
  FrameLoads frame;
};
struct Block {
  std::string name;
  bool scoped = false, required = false;
  Body body;
  FrameLoads frame;
  int n_slots = 0;
  int self_slot = -1;
  // scoped: variables of the surrounding frames.
  std::vector<std::pair<std::string, SlotRef>> visible;
};
/// include, import, from, extends: there is no loader, so running it fails.
struct NoLoader {
  std::string tag;
  Expr source;
  std::vector<std::string> targets;
};
struct Break {};
struct Continue {};

struct Stmt {
  std::uint32_t pos = 0;
  std::variant<
      Output,
      For,
      If,
      MacroStmt,
      CallBlock,
      Generation,
      FilterBlock,
      With,
      Set,
      SetBlock,
      Scope,
      Block,
      NoLoader,
      Break,
      Continue>
      node;
};

/// A parsed template.
struct Ast {
  Body body;
  FrameLoads frame;
  int n_slots = 0;
  int self_slot = -1;
};

} // namespace qwen3_mlx::jinja
