// SPDX-License-Identifier: MIT
// Statements.
#include "chat/jinja/builtins.h"
#include "chat/jinja/interpreter.h"

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
