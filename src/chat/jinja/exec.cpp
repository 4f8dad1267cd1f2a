// SPDX-License-Identifier: MIT
// Statements.
#include "chat/jinja/builtins.h"
#include "chat/jinja/interpreter.h"
#include "chat/jinja/loop_object.h"

namespace qwen3_mlx::jinja {

namespace {

// `self`: the template's blocks by name.
class BlocksObject : public Object {
 public:
  using Render = std::function<std::optional<Value>(std::string_view)>;
  explicit BlocksObject(Render render) : render_(std::move(render)) {}
  std::string type_name() const override {
    return "TemplateReference";
  }
  std::optional<Value> item(Runtime&, const Value& key) override {
    return key.is_string() ? render_(key.as_string()) : std::nullopt;
  }

 private:
  Render render_;
};

void collect_namespace_refs(
    const Expr& target,
    std::vector<const NamespaceRef*>& out) {
  if (const NamespaceRef* ref = target.as<NamespaceRef>()) {
    out.push_back(ref);
  } else if (const TupleExpr* tuple = target.as<TupleExpr>()) {
    for (const Expr& item : tuple->items) {
      collect_namespace_refs(item, out);
    }
  }
}

} // namespace

// The items of a loop that pass its `if`. The test is a function of its own,
// and runs as the loop asks for items.
class LoopFilter : public Iterator {
 public:
  LoopFilter(
      Interpreter& in,
      const For& loop,
      std::unique_ptr<Iterator> it,
      Interpreter::ActivationPtr outer)
      : in_(in), loop_(loop), it_(std::move(it)),
        at_(in.activate(loop.test_slots, std::move(outer))) {}

  std::optional<Value> next(Runtime& rt) override {
    if (!entered_) {
      in_.enter(loop_.test_frame, at_);
      entered_ = true;
    }
    while (auto item = it_->next(rt)) {
      in_.assign(*loop_.test_target, std::move(*item), at_);
      if (truthy(in_.eval(*loop_.test, at_))) {
        // What the loop sees is rebuilt from the target's variables.
        return in_.eval(*loop_.test_target, at_);
      }
    }
    return std::nullopt;
  }

 private:
  Interpreter& in_;
  const For& loop_;
  std::unique_ptr<Iterator> it_;
  Interpreter::ActivationPtr at_;
  bool entered_ = false;
};

class MacroObject : public Object {
 public:
  MacroObject(
      Interpreter& in,
      const MacroBody& macro,
      std::string name,
      Interpreter::ActivationPtr at)
      : in_(in), macro_(macro), name_(std::move(name)), at_(std::move(at)) {}

  std::string type_name() const override {
    return "Macro";
  }
  std::string repr(Runtime&) const override {
    return name_.empty() ? "<Macro anonymous>"
                         : "<Macro " + repr_string(name_) + ">";
  }
  bool callable() const override {
    return true;
  }
  std::optional<Value> attribute(Runtime&, std::string_view name) override {
    if (name == "name") {
      return name_.empty() ? Value() : Value(name_);
    }
    if (name == "arguments") {
      std::vector<Value> names;
      for (const Expr& param : macro_.params) {
        names.emplace_back(param.as<Name>()->name);
      }
      return Value::tuple(std::move(names));
    }
    if (name == "caller") {
      return Value(uses_caller());
    }
    if (name == "catch_kwargs") {
      return Value(macro_.kwargs_slot >= 0);
    }
    if (name == "catch_varargs") {
      return Value(macro_.varargs_slot >= 0);
    }
    if (name == "explicit_caller") {
      return Value(macro_.explicit_caller);
    }
    return std::nullopt;
  }
  Value call(Runtime&, Args args) override {
    return in_.call_macro(macro_, name_, at_, std::move(args));
  }

 private:
  bool uses_caller() const {
    return macro_.caller_slot >= 0;
  }
  Interpreter& in_;
  const MacroBody& macro_;
  std::string name_;
  Interpreter::ActivationPtr at_;
};

template <class F>
std::string Interpreter::capture(F&& body) {
  std::string text;
  std::string* outer = out_;
  struct Restore {
    Interpreter& in;
    std::string* outer;
    ~Restore() {
      in.out_ = outer;
    }
  } restore{*this, outer};
  out_ = &text;
  body();
  return text;
}

struct StmtExecutor {
  using Flow = Interpreter::Flow;
  Interpreter& in;
  const Stmt& stmt;
  const Interpreter::ActivationPtr& at;

  Flow operator()(const Output& s) {
    for (const Expr& part : s.parts) {
      if (const TemplateText* text = part.as<TemplateText>()) {
        in.write(text->text.as_string());
        continue;
      }
      Value v = in.eval(part, at);
      if (v.is_string()) {
        in.write(v.as_string());
      } else {
        in.write(in.to_str(v));
      }
    }
    return Flow::normal;
  }
  Flow operator()(const If& s) {
    for (const If::Branch& branch : s.branches) {
      if (truthy(in.eval(branch.test, at))) {
        return in.exec(branch.body, at);
      }
    }
    return in.exec(s.otherwise, at);
  }
  Flow operator()(const For& s) {
    return in.exec_for(s, at);
  }
  Flow operator()(const MacroStmt& s) {
    Value macro = in.make_macro(s.macro, s.name, at);
    if (s.exported) {
      in.vars_.set(Value(s.name), macro);
    }
    in.slot(s.slot, at) = std::move(macro);
    return Flow::normal;
  }
  Flow operator()(const CallBlock& s) {
    Value caller = in.make_macro(s.macro, {}, at);
    const CallExpr& call = *s.call.as<CallExpr>();
    Value callee = in.eval(*call.callee, at);
    Args args = in.eval_args(call.args, at);
    for (const auto& [name, value] : args.keyword) {
      if (name == "caller") {
        throw Fault("got multiple values for keyword argument 'caller'");
      }
    }
    args.keyword.emplace_back("caller", std::move(caller));
    write_text(in.call(callee, std::move(args)));
    return Flow::normal;
  }
  Flow operator()(const Generation& s) {
    Value body = in.make_macro(s.macro, {}, at);
    in.write(in.to_str(in.call(body, {})));
    return Flow::normal;
  }
  Flow operator()(const FilterBlock& s) {
    in.enter(s.frame, at);
    Flow flow = Flow::normal;
    std::string text = in.capture([&] { flow = in.exec(s.body, at); });
    if (flow == Flow::normal) {
      write_text(filtered(s.filter, in.str(std::move(text))));
    }
    in.leave(s.frame, at);
    return flow;
  }
  Flow operator()(const With& s) {
    in.enter(s.frame, at);
    for (std::size_t n = 0; n < s.targets.size(); ++n) {
      in.assign(s.targets[n], in.eval(s.values[n], at), at);
    }
    Flow flow = in.exec(s.body, at);
    in.leave(s.frame, at);
    return flow;
  }
  Flow operator()(const Set& s) {
    check_namespaces(s.target);
    in.assign(s.target, in.eval(s.value, at), at);
    in.export_names(s.exported, at);
    return Flow::normal;
  }
  Flow operator()(const SetBlock& s) {
    in.enter(s.frame, at);
    Flow flow = Flow::normal;
    std::string text = in.capture([&] { flow = in.exec(s.body, at); });
    if (flow == Flow::normal) {
      Value value = in.str(std::move(text));
      if (s.filter) {
        value = filtered(*s.filter, value);
      }
      in.assign(s.target, std::move(value), at);
      in.export_names(s.exported, at);
    }
    in.leave(s.frame, at);
    return flow;
  }
  Flow operator()(const Scope& s) {
    in.enter(s.frame, at);
    if (truthy(in.eval(s.option, at))) {
      throw Fault("autoescape is not supported: chat templates are no HTML");
    }
    Flow flow = in.exec(s.body, at);
    in.leave(s.frame, at);
    return flow;
  }
  Flow operator()(const Block& s) {
    if (s.required) {
      throw Fault("Required block '" + s.name + "' not found");
    }
    Dict visible;
    for (const auto& [name, ref] : s.visible) {
      if (const auto& value = in.slot(ref, at)) {
        visible.set(Value(name), *value);
      }
    }
    in.overlays_.push_back(&visible);
    std::string text = in.run_block(s);
    in.overlays_.pop_back();
    in.write(text);
    return Flow::normal;
  }
  Flow operator()(const NoLoader& s) {
    in.eval(s.source, at);
    throw Fault(
        "'" + s.tag + "' is not possible: a chat template stands alone");
  }
  Flow operator()(const Break&) {
    return Flow::break_loop;
  }
  Flow operator()(const Continue&) {
    return Flow::continue_loop;
  }

  // What a call or filter block yields goes out as it is: Jinja does not turn
  // it into a str.
  void write_text(const Value& v) {
    if (!v.is_string()) {
      throw Fault("expected str instance, " + v.type_name() + " found");
    }
    in.write(v.as_string());
  }

  // A chain of filters, the innermost of which has no input of its own.
  Value filtered(const Expr& expr, const Value& text) {
    const FilterExpr& filter = *expr.as<FilterExpr>();
    Value input = filter.input ? filtered(*filter.input, text) : text;
    return in.apply_filter(expr, filter, input, at);
  }

  void check_namespaces(const Expr& target) {
    std::vector<const NamespaceRef*> refs;
    collect_namespace_refs(target, refs);
    for (const NamespaceRef* ref : refs) {
      const auto& value = in.slot(ref->slot, at);
      if (!value || value->as<Namespace>() == nullptr) {
        throw Fault("cannot assign attribute on non-namespace object");
      }
    }
  }
};

Interpreter::Interpreter(
    const Ast& ast,
    Budget& budget,
    Dict context,
    const std::tm& now)
    : Runtime(budget), ast_(ast), context_(std::move(context)), now_(now) {}

Interpreter::~Interpreter() {
  for (const auto& ns : namespaces_) {
    ns->clear();
  }
  for (const ActivationPtr& activation : captured_) {
    activation->slots.clear();
  }
}

void Interpreter::keep(std::shared_ptr<Namespace> ns) {
  namespaces_.push_back(std::move(ns));
}

std::string Interpreter::run() {
  find_blocks(ast_.body);
  ActivationPtr root = activate(ast_.n_slots, nullptr);
  captured_.push_back(root);
  std::string out;
  out_ = &out;
  try {
    set_self(ast_.self_slot, root);
    enter(ast_.frame, root);
    exec(ast_.body, root);
  } catch (const Fault& fault) {
    throw RuntimeFault{0, fault.what()};
  }
  return out;
}

void Interpreter::find_blocks(const Body& body) {
  for (const Stmt& stmt : body) {
    if (const Block* block = std::get_if<Block>(&stmt.node)) {
      blocks_[block->name] = block;
      find_blocks(block->body);
    } else if (const For* loop = std::get_if<For>(&stmt.node)) {
      find_blocks(loop->body);
      find_blocks(loop->otherwise);
    } else if (const If* choice = std::get_if<If>(&stmt.node)) {
      for (const If::Branch& branch : choice->branches) {
        find_blocks(branch.body);
      }
      find_blocks(choice->otherwise);
    }
  }
}

std::optional<Value> Interpreter::resolve(const std::string& name) const {
  for (auto it = overlays_.rbegin(); it != overlays_.rend(); ++it) {
    if (const Value* v = (*it)->find(name)) {
      return *v;
    }
  }
  if (const Value* v = vars_.find(name)) {
    return *v;
  }
  if (const Value* v = context_.find(name)) {
    return *v;
  }
  return find_global(name);
}

Interpreter::ActivationPtr
Interpreter::activate(int n_slots, ActivationPtr parent) {
  auto at = std::make_shared<Activation>();
  at->slots.resize(static_cast<std::size_t>(n_slots));
  at->parent = std::move(parent);
  return at;
}

Interpreter::Leave::~Leave() {
  if (at.use_count() > 1) {
    in.captured_.push_back(std::move(at));
  }
}

void Interpreter::set_self(int slot, const ActivationPtr& at) {
  if (slot >= 0) {
    at->slots[static_cast<std::size_t>(slot)] =
        Value(std::shared_ptr<Object>(std::make_shared<BlocksObject>(
            [this](std::string_view name) { return block_reference(name); })));
  }
}

std::optional<Value> Interpreter::block_reference(std::string_view name) {
  auto it = blocks_.find(std::string(name));
  if (it == blocks_.end()) {
    return std::nullopt;
  }
  return make_function(
      it->first, [this, block = it->second](Runtime&, Args args) {
        if (!args.positional.empty() || !args.keyword.empty()) {
          throw Fault("a block takes no arguments");
        }
        return str(run_block(*block));
      });
}

void Interpreter::enter(const FrameLoads& frame, const ActivationPtr& at) {
  for (const FrameLoads::Load& load : frame.loads) {
    auto& place = at->slots[static_cast<std::size_t>(load.slot)];
    switch (load.from) {
    case FrameLoads::Load::From::context:
      place = resolve(load.name);
      break;
    case FrameLoads::Load::From::alias:
      place = slot(load.source, at);
      break;
    case FrameLoads::Load::From::nothing:
      place.reset();
      break;
    }
  }
}

void Interpreter::leave(const FrameLoads& frame, const ActivationPtr& at) {
  for (int slot : frame.all_slots) {
    at->slots[static_cast<std::size_t>(slot)].reset();
  }
}

void Interpreter::write(std::string_view text) {
  budget().charge_bytes(
      out_->size() + text.size() > budget().limits().max_output_bytes
          ? budget().limits().max_output_bytes + 1
          : text.size());
  out_->append(text);
}

void Interpreter::assign(
    const Expr& target,
    Value value,
    const ActivationPtr& at) {
  if (const Name* name = target.as<Name>()) {
    slot(name->slot, at) = std::move(value);
    return;
  }
  if (const NamespaceRef* ref = target.as<NamespaceRef>()) {
    const auto& holder = slot(ref->slot, at);
    Namespace* ns = holder ? holder->as<Namespace>() : nullptr;
    if (ns == nullptr) {
      throw Fault("cannot assign attribute on non-namespace object");
    }
    if (ref->attribute.starts_with('_')) {
      throw Fault(
          "Chat templates cannot store underscore-prefixed attributes on a "
          "namespace, but got '" +
          ref->attribute + "'. Please rename the attribute.");
    }
    ns->set(ref->attribute, std::move(value));
    return;
  }
  const std::vector<Expr>& targets = target.as<TupleExpr>()->items;
  auto it = iterate(value);
  std::vector<Value> items;
  while (auto item = it->next(*this)) {
    if (items.size() == targets.size()) {
      throw Fault(
          "too many values to unpack (expected " +
          std::to_string(targets.size()) + ")");
    }
    items.push_back(std::move(*item));
  }
  if (items.size() < targets.size()) {
    throw Fault(
        "not enough values to unpack (expected " +
        std::to_string(targets.size()) + ", got " +
        std::to_string(items.size()) + ")");
  }
  for (std::size_t n = 0; n < targets.size(); ++n) {
    assign(targets[n], std::move(items[n]), at);
  }
}

void Interpreter::export_names(
    const std::vector<std::pair<std::string, SlotRef>>& names,
    const ActivationPtr& at) {
  for (const auto& [name, ref] : names) {
    if (const auto& value = slot(ref, at)) {
      vars_.set(Value(name), *value);
    }
  }
}

Interpreter::Flow Interpreter::exec(const Body& body, const ActivationPtr& at) {
  for (const Stmt& stmt : body) {
    try {
      budget().charge();
      Budget::Nesting nesting(budget());
      Flow flow = std::visit(StmtExecutor{*this, stmt, at}, stmt.node);
      if (flow != Flow::normal) {
        return flow;
      }
    } catch (const Fault& fault) {
      throw RuntimeFault{stmt.pos, fault.what()};
    }
  }
  return Flow::normal;
}

Interpreter::Flow
Interpreter::exec_for(const For& loop, const ActivationPtr& at) {
  Value iterable = eval(loop.iter, at);
  Flow flow = Flow::normal;
  if (!loop.recursive) {
    run_loop(loop, iterable, at, at, nullptr, 0, flow);
    return flow;
  }
  // The loop is a function that `loop(...)` calls again.
  auto render = std::make_shared<std::function<Value(const Value&, int)>>();
  std::weak_ptr<std::function<Value(const Value&, int)>> again = render;
  *render = [this, &loop, at, again](const Value& items, int depth) {
    Budget::Call call(budget());
    ActivationPtr own = activate(loop.n_slots, at);
    Leave leave_own{*this, own};
    Flow inner = Flow::normal;
    auto self = again.lock();
    auto recurse = make_function("loop", [self](Runtime&, Args args) {
      return (*self)(
          args.positional[0], static_cast<int>(args.positional[1].as_int()));
    });
    std::string text = capture([&] {
      run_loop(loop, items, at, own, recurse.object_ptr(), depth, inner);
    });
    return str(std::move(text));
  };
  write((*render)(iterable, 0).as_string());
  return Flow::normal;
}

void Interpreter::run_loop(
    const For& loop,
    const Value& iterable,
    const ActivationPtr& outer,
    const ActivationPtr& at,
    std::shared_ptr<Object> recurse,
    int depth,
    Flow& flow) {
  std::unique_ptr<Iterator> filtered;
  if (loop.test) {
    filtered =
        std::make_unique<LoopFilter>(*this, loop, iterate(iterable), outer);
  }
  std::shared_ptr<LoopObject> state;
  std::unique_ptr<Iterator> it;
  if (loop.extended) {
    LoopObject::Recurse again;
    if (recurse) {
      again = [recurse](Runtime& rt, const Value& items, int next_depth) {
        return recurse->call(rt, Args{{items, Value(next_depth)}, {}});
      };
    }
    state = filtered
        ? std::make_shared<LoopObject>(
              std::move(filtered), iterable.depth(), std::move(again), depth)
        : std::make_shared<LoopObject>(
              *this, iterable, std::move(again), depth);
  } else {
    it = filtered ? std::move(filtered) : iterate(iterable);
  }
  if (state) {
    slot(loop.loop_slot, at).reset();
  }
  bool any = false;
  while (true) {
    budget().charge();
    std::optional<Value> item = state ? state->advance(*this) : it->next(*this);
    if (!item) {
      break;
    }
    assign(loop.target, std::move(*item), at);
    if (state) {
      slot(loop.loop_slot, at) = Value(std::shared_ptr<Object>(state));
    }
    enter(loop.body_frame, at);
    Flow step = exec(loop.body, at);
    if (step == Flow::break_loop) {
      // As in Jinja, breaking out of the first round counts as no round.
      break;
    }
    // ... and so does `continue`, which skips the mark at the body's end.
    any = any || step == Flow::normal;
  }
  leave(loop.body_frame, at);
  if (!any && !loop.otherwise.empty()) {
    enter(loop.else_frame, at);
    flow = exec(loop.otherwise, at);
    leave(loop.else_frame, at);
  }
}

Value Interpreter::make_macro(
    const MacroBody& macro,
    std::string name,
    const ActivationPtr& at) {
  return Value(std::shared_ptr<Object>(
      std::make_shared<MacroObject>(*this, macro, std::move(name), at)));
}

Value Interpreter::call_macro(
    const MacroBody& macro,
    const std::string& name,
    const ActivationPtr& outer,
    Args args) {
  Budget::Call call(budget());
  ActivationPtr at = activate(macro.n_slots, outer);
  Leave leave_at{*this, at};
  auto own_slot = [&](int n) -> std::optional<Value>& {
    return at->slots[static_cast<std::size_t>(n)];
  };
  auto take_keyword = [&](std::string_view wanted) -> std::optional<Value> {
    for (auto it = args.keyword.begin(); it != args.keyword.end(); ++it) {
      if (it->first == wanted) {
        Value value = std::move(it->second);
        args.keyword.erase(it);
        return value;
      }
    }
    return std::nullopt;
  };
  const std::size_t n_params = macro.params.size();
  const std::size_t n_given = std::min(args.positional.size(), n_params);
  std::vector<std::optional<Value>> values(n_params);
  bool found_caller = n_given == n_params && macro.explicit_caller;
  for (std::size_t n = 0; n < n_params; ++n) {
    const std::string& param = macro.params[n].as<Name>()->name;
    if (n < n_given) {
      values[n] = args.positional[n];
    } else {
      values[n] = take_keyword(param);
      found_caller = found_caller || param == "caller";
    }
  }
  std::optional<Value> caller;
  if (macro.caller_slot >= 0 && !found_caller) {
    caller = take_keyword("caller");
    if (!caller || caller->is_none()) {
      caller = Value::undefined("No caller defined");
    }
  }
  if (macro.kwargs_slot < 0 && !args.keyword.empty()) {
    throw Fault(
        "macro '" + name + "' takes no keyword argument '" +
        args.keyword[0].first + "'");
  }
  if (macro.varargs_slot < 0 && args.positional.size() > n_params) {
    throw Fault(
        "macro '" + name + "' takes not more than " + std::to_string(n_params) +
        " argument(s)");
  }
  enter(macro.frame, at);
  for (std::size_t n = 0; n < n_params; ++n) {
    own_slot(macro.param_slots[n]) = std::move(values[n]);
  }
  if (caller) {
    own_slot(macro.caller_slot) = std::move(caller);
  }
  if (macro.kwargs_slot >= 0) {
    Dict kwargs;
    for (auto& [key, value] : args.keyword) {
      kwargs.set(Value(key), std::move(value));
    }
    own_slot(macro.kwargs_slot) = Value::dict(std::move(kwargs));
  }
  if (macro.varargs_slot >= 0) {
    own_slot(macro.varargs_slot) = tuple(std::vector<Value>(
        args.positional.begin() + static_cast<std::ptrdiff_t>(n_given),
        args.positional.end()));
  }
  const std::size_t first_default = n_params - macro.defaults.size();
  for (std::size_t n = 0; n < n_params; ++n) {
    std::optional<Value>& param = own_slot(macro.param_slots[n]);
    if (param) {
      continue;
    }
    param = n >= first_default
        ? eval(macro.defaults[n - first_default], at)
        : Value::undefined(
              "parameter '" + macro.params[n].as<Name>()->name +
              "' was not provided");
  }
  std::string text = capture([&] { exec(macro.body, at); });
  return str(std::move(text));
}

std::string Interpreter::run_block(const Block& block) {
  Budget::Call call(budget());
  ActivationPtr at = activate(block.n_slots, nullptr);
  Leave leave_at{*this, at};
  return capture([&] {
    set_self(block.self_slot, at);
    enter(block.frame, at);
    exec(block.body, at);
  });
}

} // namespace qwen3_mlx::jinja
