// SPDX-License-Identifier: MIT
#include "chat/jinja/symbols.h"

#include <algorithm>

#include "chat/jinja/ast_walk.h"

namespace qwen3_mlx::jinja {

void Symbols::set_load(const std::string& variable, Load load) {
  auto it = std::find_if(loads_.begin(), loads_.end(), [&](const auto& entry) {
    return entry.first == variable;
  });
  if (it != loads_.end()) {
    it->second = std::move(load);
  } else {
    loads_.emplace_back(variable, std::move(load));
  }
}

void Symbols::define(const std::string& name, Load load) {
  std::string variable = std::to_string(level_) + " " + name;
  refs_[name] = variable;
  set_load(variable, std::move(load));
}

std::string Symbols::ref(const std::string& name) const {
  for (const Symbols* s = this; s != nullptr; s = s->parent_) {
    auto it = s->refs_.find(name);
    if (it != s->refs_.end()) {
      return it->second;
    }
  }
  return {};
}

void Symbols::store(const std::string& name) {
  stores_.insert(name);
  if (refs_.contains(name)) {
    return;
  }
  std::string outer = parent_ ? parent_->ref(name) : std::string();
  if (outer.empty()) {
    define(name, {From::nothing, {}});
  } else {
    define(name, {From::alias, std::move(outer)});
  }
}

void Symbols::load(const std::string& name) {
  if (ref(name).empty()) {
    define(name, {From::context, name});
  }
}

void Symbols::declare_parameter(const std::string& name) {
  stores_.insert(name);
  define(name, {From::param, {}});
}

void Symbols::merge_branches(const std::vector<Symbols>& branches) {
  std::set<std::string> stored;
  for (const Symbols& branch : branches) {
    for (const std::string& name : branch.stores_) {
      if (!stores_.contains(name)) {
        stored.insert(name);
      }
    }
  }
  for (const Symbols& branch : branches) {
    for (const auto& [name, variable] : branch.refs_) {
      refs_[name] = variable;
    }
    for (const auto& [variable, load] : branch.loads_) {
      set_load(variable, load);
    }
    stores_.insert(branch.stores_.begin(), branch.stores_.end());
  }
  // A branch that was not taken leaves the variable as it was outside.
  for (const std::string& name : stored) {
    std::string outer = parent_ ? parent_->ref(name) : std::string();
    if (outer.empty()) {
      set_load(ref(name), {From::context, name});
    } else {
      set_load(ref(name), {From::alias, std::move(outer)});
    }
  }
}

std::set<std::string> Symbols::all_stores() const {
  std::set<std::string> out;
  for (const Symbols* s = this; s != nullptr; s = s->parent_) {
    out.insert(s->stores_.begin(), s->stores_.end());
  }
  return out;
}

void Symbols::visit(Expr& expr, bool store_as_param) {
  walk(expr, [&](Expr& e) {
    if (const Name* name = e.as<Name>()) {
      if (store_as_param || name->use == Name::Use::param) {
        declare_parameter(name->name);
      } else if (name->use == Name::Use::store) {
        store(name->name);
      } else {
        load(name->name);
      }
    } else if (const NamespaceRef* ref = e.as<NamespaceRef>()) {
      load(ref->name);
    }
  });
}

// Bodies of loops, macros and blocks are frames of their own: only what runs
// in this frame counts.
struct SymbolVisitor {
  Symbols& symbols;

  void operator()(Output& s) {
    for (Expr& part : s.parts) {
      symbols.visit(part);
    }
  }
  void operator()(For& s) {
    symbols.visit(s.iter);
  }
  void operator()(If& s) {
    visit_if(s);
  }
  void operator()(MacroStmt& s) {
    symbols.store(s.name);
  }
  void operator()(CallBlock& s) {
    symbols.visit(s.call);
  }
  void operator()(Generation&) {}
  void operator()(FilterBlock& s) {
    symbols.visit(s.filter);
  }
  void operator()(With& s) {
    for (Expr& value : s.values) {
      symbols.visit(value);
    }
  }
  void operator()(Set& s) {
    symbols.visit(s.value);
    symbols.visit(s.target);
  }
  void operator()(SetBlock& s) {
    symbols.visit(s.target);
  }
  void operator()(Scope&) {}
  void operator()(Block&) {}
  void operator()(NoLoader& s) {
    symbols.visit(s.source);
    for (const std::string& target : s.targets) {
      symbols.store(target);
    }
  }
  void operator()(Break&) {}
  void operator()(Continue&) {}

  // The first branch, then each elif as an `if` of its own without an else.
  void visit_if(If& s) {
    symbols.visit(s.branches[0].test);
    std::vector<Symbols> branches(3, symbols);
    branches[0].visit(s.branches[0].body);
    for (std::size_t n = 1; n < s.branches.size(); ++n) {
      Symbols& elif = branches[1];
      elif.visit(s.branches[n].test);
      std::vector<Symbols> inner(3, elif);
      inner[0].visit(s.branches[n].body);
      elif.merge_branches(inner);
    }
    branches[2].visit(s.otherwise);
    symbols.merge_branches(branches);
  }
};

void Symbols::visit(Stmt& stmt) {
  std::visit(SymbolVisitor{*this}, stmt.node);
}

void Symbols::visit(Body& body) {
  for (Stmt& stmt : body) {
    visit(stmt);
  }
}

std::set<std::string> find_undeclared(Body& body, std::set<std::string> names) {
  std::set<std::string> undeclared;
  walk(body, false, [&](Expr& expr) {
    if (const Name* name = expr.as<Name>()) {
      if (name->use == Name::Use::load && names.contains(name->name)) {
        undeclared.insert(name->name);
      } else {
        names.erase(name->name);
      }
    }
  });
  return undeclared;
}

} // namespace qwen3_mlx::jinja
