// SPDX-License-Identifier: MIT
// Runs a syntax tree.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "chat/jinja/ast.h"
#include "chat/jinja/runtime.h"

namespace qwen3_mlx::jinja {

/// An error at a byte of the source.
struct RuntimeFault {
  std::uint32_t pos;
  std::string reason;
};

/// Variables of one call of a function (template, macro, block, recursive
/// loop). Inner functions see them through `parent`. An empty slot is a name
/// without a value.
struct Activation {
  std::vector<std::optional<Value>> slots;
  std::shared_ptr<Activation> parent;
};

class Interpreter : public Runtime {
 public:
  Interpreter(const Ast& ast, Budget& budget, Dict context, const std::tm& now);
  ~Interpreter() override;

  /// Throws RuntimeFault.
  std::string run();

  void keep(std::shared_ptr<Namespace> ns) override;
  const std::tm& now() const override {
    return now_;
  }

 private:
  friend class MacroObject;
  friend class LoopObject;
  friend class SelfObject;
  friend class LoopFilter;
  friend struct ExprEvaluator;
  friend struct StmtExecutor;

  enum class Flow { normal, break_loop, continue_loop };
  using ActivationPtr = std::shared_ptr<Activation>;

  // eval.cpp
  Value eval(const Expr& expr, const ActivationPtr& at);
  Args eval_args(const CallArgs& args, const ActivationPtr& at);
  Value apply_filter(
      const Expr& expr,
      const FilterExpr& filter,
      const Value& input,
      const ActivationPtr& at);
  std::optional<Value>& slot(const SlotRef& ref, const ActivationPtr& at) const;

  // exec.cpp
  Flow exec(const Body& body, const ActivationPtr& at);
  void write(std::string_view text);
  void assign(const Expr& target, Value value, const ActivationPtr& at);
  void enter(const FrameLoads& frame, const ActivationPtr& at);
  void leave(const FrameLoads& frame, const ActivationPtr& at);
  std::optional<Value> resolve(const std::string& name) const;
  void export_names(
      const std::vector<std::pair<std::string, SlotRef>>& names,
      const ActivationPtr& at);
  ActivationPtr activate(int n_slots, ActivationPtr parent);
  void set_self(int slot, const ActivationPtr& at);
  /// Keeps the variables of a call that is over when a macro made inside it
  /// still needs them: the two may refer to each other in a circle.
  struct Leave {
    Interpreter& in;
    ActivationPtr& at;
    ~Leave();
  };
  /// Runs `body` with its output caught, and returns that.
  template <class F>
  std::string capture(F&& body) {
    std::string text;
    struct Restore {
      Interpreter& in;
      std::string* outer;
      ~Restore() {
        in.out_ = outer;
      }
    } restore{*this, out_};
    out_ = &text;
    body();
    return text;
  }

  // exec_loop.cpp
  Flow exec_for(const For& loop, const ActivationPtr& at);
  void run_loop(
      const For& loop,
      const Value& iterable,
      const ActivationPtr& outer,
      const ActivationPtr& at,
      std::shared_ptr<Object> recurse,
      int depth,
      Flow& flow);

  // exec_macro.cpp
  Value
  make_macro(const MacroBody& macro, std::string name, const ActivationPtr& at);
  Value call_macro(
      const MacroBody& macro,
      const std::string& name,
      const ActivationPtr& outer,
      Args args);

  // exec.cpp
  std::string run_block(const Block& block);
  void find_blocks(const Body& body);
  std::optional<Value> block_reference(std::string_view name);

  const Ast& ast_;
  Dict context_;                      // What the caller passed.
  Dict vars_;                         // What the top level assigned.
  std::vector<const Dict*> overlays_; // Variables of scoped blocks.
  std::map<std::string, const Block*> blocks_;
  std::string* out_ = nullptr;
  // Held so that reference cycles through them can be broken at the end.
  std::vector<std::shared_ptr<Namespace>> namespaces_;
  std::vector<ActivationPtr> captured_;
  const std::tm& now_;
};

} // namespace qwen3_mlx::jinja
