// SPDX-License-Identifier: MIT
#include "chat/jinja/scope.h"

#include <algorithm>
#include <unordered_map>

#include "chat/jinja/ast_walk.h"
#include "chat/jinja/builtins.h"
#include "chat/jinja/lexer.h"
#include "chat/jinja/symbols.h"

namespace qwen3_mlx::jinja {

namespace {

// A function of the compiled form: the template, a macro, a block, a recursive
// loop or a loop's filter. It has slots for the variables of its frames.
struct FunctionScope {
  const FunctionScope* parent;
  std::unordered_map<std::string, int> slots = {};
  int loops = 0; // Loops around the current statement.

  int slot(const std::string& variable) {
    return slots.try_emplace(variable, static_cast<int>(slots.size()))
        .first->second;
  }
  int size() const {
    return static_cast<int>(slots.size());
  }
};

struct Frame {
  Symbols* symbols;
  FunctionScope* function;
  bool toplevel = false;
  // Inside an if or a conditional expression an unknown filter or test is an
  // error only when it is reached.
  bool soft = false;

  Frame as_soft() const {
    Frame frame = *this;
    frame.soft = true;
    return frame;
  }
};

[[noreturn]] void fail(std::uint32_t pos, std::string reason) {
  throw SyntaxFault{pos, std::move(reason)};
}

class Resolver {
 public:
  explicit Resolver(Ast& ast) : ast_(ast) {}

  void run() {
    FunctionScope function{nullptr};
    Symbols symbols(nullptr);
    bool uses_self = !find_undeclared(ast_.body, {"self"}).empty();
    if (uses_self) {
      symbols.declare_parameter("self");
    }
    symbols.visit(ast_.body);
    Frame frame{&symbols, &function, true};
    ast_.frame = enter(frame);
    if (uses_self) {
      ast_.self_slot = slot_of("self", frame, 0).index;
    }
    visit(ast_.body, frame);
    ast_.n_slots = function.size();
  }

 private:
  SlotRef
  find(const std::string& variable, const FunctionScope* function) const {
    int hops = 0;
    for (; function != nullptr; function = function->parent, ++hops) {
      auto it = function->slots.find(variable);
      if (it != function->slots.end()) {
        return {hops, it->second};
      }
    }
    return {-1, 0};
  }

  SlotRef slot_of(
      const std::string& name,
      const Frame& frame,
      std::uint32_t pos) const {
    std::string variable = frame.symbols->ref(name);
    SlotRef slot =
        variable.empty() ? SlotRef{-1, 0} : find(variable, frame.function);
    if (slot.hops < 0) {
      // Jinja itself fails here, as for names in the filter of a set block.
      fail(pos, "the name '" + name + "' cannot be used here");
    }
    return slot;
  }

  // Gives the frame's variables their slots and says how they start.
  FrameLoads enter(const Frame& frame) const {
    FrameLoads out;
    for (const auto& [variable, load] : frame.symbols->loads()) {
      int slot = frame.function->slot(variable);
      out.all_slots.push_back(slot);
      switch (load.from) {
      case Symbols::From::param:
        break;
      case Symbols::From::context:
        out.loads.push_back(
            {FrameLoads::Load::From::context, slot, load.source, {}});
        break;
      case Symbols::From::alias:
        out.loads.push_back(
            {FrameLoads::Load::From::alias,
             slot,
             {},
             find(load.source, frame.function)});
        break;
      case Symbols::From::nothing:
        out.loads.push_back({FrameLoads::Load::From::nothing, slot, {}, {}});
        break;
      }
    }
    return out;
  }

  // -- Expressions

  void visit(Expr& expr, const Frame& frame) {
    if (Conditional* node = expr.as<Conditional>()) {
      Frame soft = frame.as_soft();
      visit(*node->then, soft);
      visit(*node->test, soft);
      if (node->otherwise) {
        visit(*node->otherwise, soft);
      }
      return;
    }
    if (Name* name = expr.as<Name>()) {
      name->slot = slot_of(name->name, frame, expr.pos);
    } else if (NamespaceRef* ref = expr.as<NamespaceRef>()) {
      ref->slot = slot_of(ref->name, frame, expr.pos);
    } else if (FilterExpr* filter = expr.as<FilterExpr>()) {
      if (!frame.soft && !has_filter(filter->name)) {
        fail(expr.pos, "No filter named '" + filter->name + "'.");
      }
    } else if (TestExpr* test = expr.as<TestExpr>()) {
      if (!frame.soft && !has_test(test->name)) {
        fail(expr.pos, "No test named '" + test->name + "'.");
      }
    }
    auto child = [&](Expr& e) { visit(e, frame); };
    std::visit(ChildWalker<decltype(child)>{child}, expr.node);
  }

  // walk() goes all the way down; here each child decides its own frame.
  template <class F>
  struct ChildWalker {
    F& f;
    void one(const ExprPtr& e) {
      if (e) {
        f(*e);
      }
    }
    void all(std::vector<Expr>& items) {
      for (Expr& item : items) {
        f(item);
      }
    }
    void args(CallArgs& a) {
      all(a.args);
      for (auto& [name, value] : a.kwargs) {
        f(value);
      }
      one(a.dyn_args);
      one(a.dyn_kwargs);
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
        f(key);
        f(value);
      }
    }
    void operator()(Unary& e) {
      one(e.operand);
    }
    void operator()(Binary& e) {
      one(e.left);
      one(e.right);
    }
    void operator()(Logical& e) {
      one(e.left);
      one(e.right);
    }
    void operator()(Compare& e) {
      one(e.first);
      for (auto& [op, operand] : e.rest) {
        f(operand);
      }
    }
    void operator()(Concat& e) {
      all(e.parts);
    }
    void operator()(Conditional&) {}
    void operator()(GetAttr& e) {
      one(e.object);
    }
    void operator()(GetItem& e) {
      one(e.object);
      one(e.key);
    }
    void operator()(SliceExpr& e) {
      one(e.start);
      one(e.stop);
      one(e.step);
    }
    void operator()(CallExpr& e) {
      one(e.callee);
      args(e.args);
    }
    void operator()(FilterExpr& e) {
      one(e.input);
      args(e.args);
    }
    void operator()(TestExpr& e) {
      one(e.input);
      args(e.args);
    }
  };

  // -- Statements

  void visit(Body& body, const Frame& frame) {
    for (Stmt& stmt : body) {
      pos_ = stmt.pos;
      std::visit([&](auto& node) { visit_stmt(node, frame); }, stmt.node);
    }
  }

  void visit_stmt(Output& s, const Frame& frame) {
    for (Expr& part : s.parts) {
      visit(part, frame);
    }
  }

  void visit_stmt(If& s, const Frame& frame) {
    Frame soft = frame.as_soft();
    for (If::Branch& branch : s.branches) {
      visit(branch.test, soft);
      visit(branch.body, soft);
    }
    visit(s.otherwise, soft);
  }

  void visit_stmt(For& s, const Frame& frame) {
    std::uint32_t pos = pos_;
    Symbols loop_symbols(frame.symbols);
    Symbols test_symbols(frame.symbols);
    Symbols else_symbols(frame.symbols);
    bool scoped_block =
        has_scoped_block(s.body) || has_scoped_block(s.otherwise);
    s.extended = s.recursive || !find_undeclared(s.body, {"loop"}).empty() ||
        scoped_block;
    if (s.extended) {
      loop_symbols.declare_parameter("loop");
    }
    loop_symbols.visit(s.target, true);
    loop_symbols.visit(s.body);
    else_symbols.visit(s.otherwise);
    check_loop_not_stored(s);

    if (s.test) {
      test_symbols.visit(s.target, true);
      test_symbols.visit(*s.test);
      FunctionScope test_function{frame.function};
      Frame test_frame{&test_symbols, &test_function};
      s.test_frame = enter(test_frame);
      s.test_target = std::make_unique<Expr>(copy_target(s.target));
      visit(*s.test_target, test_frame);
      visit(*s.test, test_frame);
      s.test_slots = test_function.size();
    }
    visit(s.iter, frame);

    FunctionScope loop_function{frame.function};
    FunctionScope* function = s.recursive ? &loop_function : frame.function;
    Frame loop_frame{&loop_symbols, function};
    s.body_frame = enter(loop_frame);
    if (s.extended) {
      s.loop_slot = slot_of("loop", loop_frame, pos);
    }
    visit(s.target, loop_frame);
    ++function->loops;
    visit(s.body, loop_frame);
    --function->loops;
    Frame else_frame{&else_symbols, function};
    s.else_frame = enter(else_frame);
    visit(s.otherwise, else_frame);
    s.n_slots = loop_function.size();
  }

  static bool has_scoped_block(Body& body) {
    return std::any_of(body.begin(), body.end(), [](Stmt& stmt) {
      if (Block* block = std::get_if<Block>(&stmt.node)) {
        return block->scoped || has_scoped_block(block->body);
      }
      if (If* s = std::get_if<If>(&stmt.node)) {
        return has_scoped_block(s->otherwise) ||
            std::any_of(
                   s->branches.begin(), s->branches.end(), [](auto& branch) {
                     return has_scoped_block(branch.body);
                   });
      }
      if (For* s = std::get_if<For>(&stmt.node)) {
        return has_scoped_block(s->body) || has_scoped_block(s->otherwise);
      }
      return false;
    });
  }

  static void check_loop_not_stored(For& s) {
    auto check = [](Expr& expr) {
      const Name* name = expr.as<Name>();
      if (name != nullptr && name->use == Name::Use::store &&
          name->name == "loop") {
        fail(
            expr.pos,
            "Can't assign to special loop variable in for-loop target");
      }
    };
    walk(s.target, check);
    walk(s.body, true, check);
    walk(s.otherwise, true, check);
  }

  static Expr copy_target(const Expr& target) {
    Expr copy;
    copy.pos = target.pos;
    if (const Name* name = target.as<Name>()) {
      copy.node = *name;
    } else if (const TupleExpr* tuple = target.as<TupleExpr>()) {
      TupleExpr items;
      for (const Expr& item : tuple->items) {
        items.items.push_back(copy_target(item));
      }
      copy.node = std::move(items);
    }
    return copy;
  }

  // The function of a macro, call block or generation block.
  void visit_macro(MacroBody& macro, const Frame& outer, std::uint32_t pos) {
    Symbols symbols(outer.symbols);
    auto analyze = [&] {
      for (auto* part : {&macro.params, &macro.defaults}) {
        for (Expr& expr : *part) {
          symbols.visit(expr);
        }
      }
      symbols.visit(macro.body);
    };
    analyze();
    std::set<std::string> special =
        find_undeclared(macro.body, {"caller", "kwargs", "varargs"});
    auto param = [&](std::string_view name) {
      auto it = std::find_if(
          macro.params.begin(), macro.params.end(), [&](const Expr& expr) {
            return expr.as<Name>()->name == name;
          });
      return it - macro.params.begin();
    };
    auto n_params = static_cast<std::ptrdiff_t>(macro.params.size());
    auto n_defaults = static_cast<std::ptrdiff_t>(macro.defaults.size());
    macro.explicit_caller = param("caller") < n_params;
    if (special.contains("caller") && macro.explicit_caller &&
        param("caller") < n_params - n_defaults) {
      fail(
          pos,
          "When defining macros or call blocks the special \"caller\" "
          "argument must be omitted or be given a default.");
    }
    bool caller = special.contains("caller");
    bool kwargs = special.contains("kwargs") && param("kwargs") == n_params;
    bool varargs = special.contains("varargs") && param("varargs") == n_params;
    if (caller && !macro.explicit_caller) {
      symbols.declare_parameter("caller");
    }
    if (kwargs) {
      symbols.declare_parameter("kwargs");
    }
    if (varargs) {
      symbols.declare_parameter("varargs");
    }
    analyze();

    FunctionScope function{outer.function};
    Frame frame{&symbols, &function};
    macro.frame = enter(frame);
    for (Expr& expr : macro.params) {
      visit(expr, frame);
      macro.param_slots.push_back(expr.as<Name>()->slot.index);
    }
    auto own_slot = [&](bool used, const char* name) {
      return used ? slot_of(name, frame, pos).index : -1;
    };
    macro.caller_slot = own_slot(caller, "caller");
    macro.kwargs_slot = own_slot(kwargs, "kwargs");
    macro.varargs_slot = own_slot(varargs, "varargs");
    for (Expr& expr : macro.defaults) {
      visit(expr, frame);
    }
    visit(macro.body, frame);
    macro.n_slots = function.size();
  }

  void visit_stmt(MacroStmt& s, const Frame& frame) {
    std::uint32_t pos = pos_;
    visit_macro(s.macro, frame, pos);
    s.slot = slot_of(s.name, frame, pos);
    s.exported = frame.toplevel;
  }

  void visit_stmt(CallBlock& s, const Frame& frame) {
    visit_macro(s.macro, frame, pos_);
    visit(s.call, frame);
  }

  void visit_stmt(Generation& s, const Frame& frame) {
    visit_macro(s.macro, frame, pos_);
  }

  void visit_stmt(FilterBlock& s, const Frame& frame) {
    Symbols symbols(frame.symbols);
    symbols.visit(s.body);
    symbols.visit(s.filter);
    Frame inner{&symbols, frame.function};
    s.frame = enter(inner);
    visit(s.body, inner);
    visit(s.filter, inner);
  }

  void visit_stmt(With& s, const Frame& frame) {
    Symbols symbols(frame.symbols);
    for (Expr& target : s.targets) {
      symbols.visit(target);
    }
    symbols.visit(s.body);
    Frame inner{&symbols, frame.function};
    s.frame = enter(inner);
    for (std::size_t n = 0; n < s.targets.size(); ++n) {
      visit(s.targets[n], inner);
      visit(s.values[n], frame);
    }
    visit(s.body, inner);
  }

  // Names assigned at the top level are also seen by macros and blocks.
  std::vector<std::pair<std::string, SlotRef>>
  exports(Expr& target, const Frame& frame) const {
    std::vector<std::pair<std::string, SlotRef>> out;
    if (frame.toplevel) {
      walk(target, [&](Expr& expr) {
        if (const Name* name = expr.as<Name>()) {
          out.emplace_back(name->name, name->slot);
        }
      });
    }
    return out;
  }

  void visit_stmt(Set& s, const Frame& frame) {
    visit(s.target, frame);
    visit(s.value, frame);
    s.exported = exports(s.target, frame);
  }

  void visit_stmt(SetBlock& s, const Frame& frame) {
    Symbols symbols(frame.symbols);
    symbols.visit(s.body);
    Frame inner{&symbols, frame.function};
    s.frame = enter(inner);
    visit(s.body, inner);
    visit(s.target, frame);
    if (s.filter) {
      visit(*s.filter, inner);
    }
    s.exported = exports(s.target, frame);
  }

  void visit_stmt(Scope& s, const Frame& frame) {
    Symbols symbols(frame.symbols);
    symbols.visit(s.option);
    symbols.visit(s.body);
    Frame inner{&symbols, frame.function};
    s.frame = enter(inner);
    visit(s.option, inner);
    visit(s.body, inner);
  }

  void visit_stmt(Block& s, const Frame& frame) {
    std::uint32_t pos = pos_;
    if (!block_names_.insert(s.name).second) {
      fail(pos, "block '" + s.name + "' defined twice");
    }
    if (s.scoped) {
      for (const std::string& name : frame.symbols->all_stores()) {
        s.visible.emplace_back(name, slot_of(name, frame, pos));
      }
    }
    FunctionScope function{nullptr};
    Symbols symbols(nullptr);
    // `super` stays without a value: nothing extends a chat template.
    std::set<std::string> special = find_undeclared(s.body, {"self", "super"});
    for (const std::string& name : special) {
      symbols.declare_parameter(name);
    }
    symbols.visit(s.body);
    Frame inner{&symbols, &function};
    s.frame = enter(inner);
    if (special.contains("self")) {
      s.self_slot = slot_of("self", inner, pos).index;
    }
    visit(s.body, inner);
    s.n_slots = function.size();
  }

  void visit_stmt(NoLoader& s, const Frame& frame) {
    if (s.tag == "extends" && !frame.toplevel) {
      fail(pos_, "cannot use extend from a non top-level scope");
    }
    visit(s.source, frame);
  }

  void visit_stmt(Break&, const Frame& frame) {
    if (frame.function->loops == 0) {
      fail(pos_, "'break' outside loop");
    }
  }

  void visit_stmt(Continue&, const Frame& frame) {
    if (frame.function->loops == 0) {
      fail(pos_, "'continue' not properly in loop");
    }
  }

  Ast& ast_;
  std::uint32_t pos_ = 0;
  std::set<std::string> block_names_;
};

} // namespace

void resolve_names(Ast& ast) {
  Resolver(ast).run();
}

} // namespace qwen3_mlx::jinja
