// SPDX-License-Identifier: MIT
// Macros and their calls.
#include <algorithm>

#include "chat/jinja/interpreter.h"

namespace qwen3_mlx::jinja {

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
  auto take_keyword = [&](std::string_view wanted,
                          std::optional<Value>& place) {
    const auto it = std::find_if(
        args.keyword.begin(), args.keyword.end(), [&](const auto& given) {
          return given.first == wanted;
        });
    if (it != args.keyword.end()) {
      place = std::move(it->second);
      args.keyword.erase(it);
    }
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
      take_keyword(param, values[n]);
      found_caller = found_caller || param == "caller";
    }
  }
  std::optional<Value> caller;
  if (macro.caller_slot >= 0 && !found_caller) {
    take_keyword("caller", caller);
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

} // namespace qwen3_mlx::jinja
