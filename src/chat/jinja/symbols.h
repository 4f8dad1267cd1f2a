// SPDX-License-Identifier: MIT
// The static pass over names that Jinja makes for each frame (a template, a
// loop body, a macro ...): which names it stores and where each one loads from.
#pragma once

#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "chat/jinja/ast.h"

namespace qwen3_mlx::jinja {

class Symbols {
 public:
  enum class From { param, context, alias, nothing };
  struct Load {
    From from;
    std::string source; ///< A name (context) or a variable (alias).
  };

  explicit Symbols(const Symbols* parent)
      : level_(parent ? parent->level_ + 1 : 0), parent_(parent) {}

  void store(const std::string& name);
  void load(const std::string& name);
  void declare_parameter(const std::string& name);

  /// What a statement does to the frame it stands in.
  void visit(Stmt& stmt);
  void visit(Body& body);
  void visit(Expr& expr, bool store_as_param = false);

  /// The variable that `name` means, as in "1 x": level and name. Empty when
  /// the pass never saw the name.
  std::string ref(const std::string& name) const;
  const std::vector<std::pair<std::string, Load>>& loads() const {
    return loads_;
  }
  /// Every name stored here or further out.
  std::set<std::string> all_stores() const;

 private:
  friend struct SymbolVisitor;
  void define(const std::string& name, Load load);
  void set_load(const std::string& variable, Load load);
  void merge_branches(const std::vector<Symbols>& branches);

  int level_;
  const Symbols* parent_;
  std::map<std::string, std::string> refs_;
  std::vector<std::pair<std::string, Load>> loads_;
  std::set<std::string> stores_;
};

/// Those of `names` that the body reads before it stores them.
std::set<std::string> find_undeclared(Body& body, std::set<std::string> names);

} // namespace qwen3_mlx::jinja
