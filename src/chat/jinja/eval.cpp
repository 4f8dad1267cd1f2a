// SPDX-License-Identifier: MIT
// Expressions.
#include "chat/jinja/interpreter.h"

namespace qwen3_mlx::jinja {

namespace {

/// Whether get_slice() may give something: numbers, none and dicts never do.
bool can_slice(const Value& value) {
  return value.is_undefined() || value.is_string() || value.is_list() ||
      value.is_tuple() || value.is_object();
}

bool compare(Runtime& rt, CompareOp op, const Value& a, const Value& b) {
  switch (op) {
  case CompareOp::eq:
    return equal(a, b);
  case CompareOp::ne:
    return !equal(a, b);
  case CompareOp::lt:
    return less(a, b, "<");
  case CompareOp::gt:
    return less(b, a, ">");
  case CompareOp::lteq:
    // Not "!(b < a)": NaN is in no order with anything.
    return less(a, b, "<=") || equal(a, b);
  case CompareOp::gteq:
    return less(b, a, ">=") || equal(a, b);
  case CompareOp::in:
    return rt.contains(b, a);
  case CompareOp::not_in:
    return !rt.contains(b, a);
  }
  return false;
}

} // namespace

struct ExprEvaluator {
  Interpreter& in;
  const Expr& expr;
  const Interpreter::ActivationPtr& at;

  Value eval(const ExprPtr& e) {
    return in.eval(*e, at);
  }
  std::vector<Value> all(const std::vector<Expr>& items) {
    std::vector<Value> out;
    out.reserve(items.size());
    for (const Expr& item : items) {
      out.push_back(in.eval(item, at));
    }
    return out;
  }

  Value operator()(const Literal& e) {
    return e.value;
  }
  Value operator()(const TemplateText& e) {
    return e.text;
  }
  Value operator()(const Name& e) {
    const std::optional<Value>& value = in.slot(e.slot, at);
    return value ? *value : Value::undefined("'" + e.name + "' is undefined");
  }
  Value operator()(const NamespaceRef&) {
    return Value();
  }
  Value operator()(const TupleExpr& e) {
    return in.tuple(all(e.items));
  }
  Value operator()(const ListExpr& e) {
    return in.list(all(e.items));
  }
  Value operator()(const DictExpr& e) {
    Dict out;
    for (const auto& [key, value] : e.items) {
      Value k = in.eval(key, at);
      out.set(std::move(k), in.eval(value, at));
    }
    return Value::dict(std::move(out));
  }
  Value operator()(const Unary& e) {
    Value v = eval(e.operand);
    switch (e.op) {
    case UnaryOp::neg:
      return negate(v);
    case UnaryOp::pos:
      return positive(v);
    default:
      return !truthy(v);
    }
  }
  Value operator()(const Binary& e) {
    Value a = eval(e.left);
    Value b = eval(e.right);
    switch (e.op) {
    case BinaryOp::add:
      return add(in, a, b);
    case BinaryOp::sub:
      return subtract(a, b);
    case BinaryOp::mul:
      return multiply(in, a, b);
    case BinaryOp::div:
      return divide(a, b);
    case BinaryOp::floordiv:
      return floor_divide(a, b);
    case BinaryOp::mod:
      return modulo(in, a, b);
    default:
      return power(a, b);
    }
  }
  Value operator()(const Logical& e) {
    Value left = eval(e.left);
    return truthy(left) == e.is_and ? eval(e.right) : left;
  }
  Value operator()(const Compare& e) {
    Value left = eval(e.first);
    for (const auto& [op, operand] : e.rest) {
      Value right = in.eval(operand, at);
      if (!compare(in, op, left, right)) {
        return false;
      }
      left = std::move(right);
    }
    return true;
  }
  Value operator()(const Concat& e) {
    std::string out;
    for (const Value& v : all(e.parts)) {
      out += in.to_str(v);
      in.budget().charge_bytes(out.size() > 4096 ? out.size() : 0);
    }
    return in.str(std::move(out));
  }
  Value operator()(const Conditional& e) {
    if (truthy(eval(e.test))) {
      return eval(e.then);
    }
    return e.otherwise
        ? eval(e.otherwise)
        : Value::undefined(
              "the inline if-expression evaluated to false and no else section "
              "was defined.");
  }
  Value operator()(const GetAttr& e) {
    return in.get_attr(eval(e.object), e.attribute);
  }
  Value operator()(const GetItem& e) {
    Value object = eval(e.object);
    if (const SliceExpr* slice = e.key->as<SliceExpr>()) {
      auto part = [&](const ExprPtr& p) { return p ? eval(p) : Value(); };
      Value start = part(slice->start);
      Value stop = part(slice->stop);
      Value step = part(slice->step);
      if (e.is_constant && !can_slice(object)) {
        return Value::undefined(object.type_name() + " has no element slice()");
      }
      return in.get_slice(object, start, stop, step);
    }
    return in.get_item(object, eval(e.key));
  }
  Value operator()(const SliceExpr&) {
    throw Fault("a slice is only possible alone between brackets");
  }
  Value operator()(const CallExpr& e) {
    Value callee = eval(e.callee);
    return in.call(callee, in.eval_args(e.args, at));
  }
  Value operator()(const FilterExpr& e) {
    return in.apply_filter(expr, e, eval(e.input), at);
  }
  Value operator()(const TestExpr& e) {
    Value input = eval(e.input);
    return in.call_test(e.name, input, in.eval_args(e.args, at));
  }
};

Value Interpreter::eval(const Expr& expr, const ActivationPtr& at) {
  try {
    budget().charge();
    Budget::Nesting nesting(budget());
    return std::visit(ExprEvaluator{*this, expr, at}, expr.node);
  } catch (const Fault& fault) {
    throw RuntimeFault{expr.pos, fault.what()};
  }
}

Value Interpreter::apply_filter(
    const Expr& expr,
    const FilterExpr& filter,
    const Value& input,
    const ActivationPtr& at) {
  Args args = eval_args(filter.args, at);
  try {
    return call_filter(filter.name, input, std::move(args));
  } catch (const Fault& fault) {
    throw RuntimeFault{expr.pos, fault.what()};
  }
}

Args Interpreter::eval_args(const CallArgs& args, const ActivationPtr& at) {
  Args out;
  for (const Expr& arg : args.args) {
    out.positional.push_back(eval(arg, at));
  }
  std::vector<Value> more;
  if (args.dyn_args) {
    more = to_vector(eval(*args.dyn_args, at));
  }
  for (const auto& [name, value] : args.kwargs) {
    out.keyword.emplace_back(name, eval(value, at));
  }
  for (Value& v : more) {
    out.positional.push_back(std::move(v));
  }
  if (args.dyn_kwargs) {
    Value extra = eval(*args.dyn_kwargs, at);
    if (!extra.is_dict()) {
      throw Fault("argument after ** must be a mapping");
    }
    for (const auto& [key, value] : extra.as_dict().items()) {
      if (!key.is_string()) {
        throw Fault("keywords must be strings");
      }
      for (const auto& [name, other] : out.keyword) {
        if (name == key.as_string()) {
          throw Fault(
              "got multiple values for keyword argument '" + name + "'");
        }
      }
      out.keyword.emplace_back(key.as_string(), value);
    }
  }
  return out;
}

std::optional<Value>&
Interpreter::slot(const SlotRef& ref, const ActivationPtr& at) const {
  Activation* activation = at.get();
  for (int n = 0; n < ref.hops; ++n) {
    activation = activation->parent.get();
  }
  return activation->slots[static_cast<std::size_t>(ref.index)];
}

} // namespace qwen3_mlx::jinja
