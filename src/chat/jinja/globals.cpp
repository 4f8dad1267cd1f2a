// SPDX-License-Identifier: MIT
// Functions every template can call: Jinja's, and those transformers adds.
#include "chat/jinja/args.h"
#include "chat/jinja/builtins.h"

namespace qwen3_mlx::jinja {

namespace {

// dict(mapping or pairs, **more)
Dict make_dict(Runtime& rt, Args args) {
  if (args.positional.size() > 1) {
    throw Fault("dict expected at most 1 argument");
  }
  Dict out;
  if (!args.positional.empty()) {
    const Value& from = args.positional[0];
    if (from.is_undefined()) {
      fail_undefined(from);
    }
    if (from.is_dict()) {
      out = from.as_dict();
    } else {
      for (const Value& pair : rt.to_vector(from)) {
        std::vector<Value> parts = rt.to_vector(pair);
        if (parts.size() != 2) {
          throw Fault("dictionary update sequence needs pairs");
        }
        out.set(std::move(parts[0]), std::move(parts[1]));
      }
    }
  }
  for (auto& [name, value] : args.keyword) {
    out.set(Value(name), std::move(value));
  }
  rt.budget().charge_items(out.size());
  return out;
}

Value new_range(Runtime& rt, Args args) {
  if (!args.keyword.empty()) {
    throw Fault("range() takes no keyword arguments");
  }
  Bound bound("range", std::move(args), {"start", "stop", "step"}, 1);
  std::int64_t start = 0;
  std::int64_t stop = bound.integer(0, 0);
  if (bound.has(1)) {
    start = stop;
    stop = bound.integer(1, 0);
  }
  std::int64_t step = bound.integer(2, 1);
  if (step == 0) {
    throw Fault("range() arg 3 must not be zero");
  }
  auto range = std::make_shared<Range>(start, stop, step);
  if (range->size() >
      static_cast<std::int64_t>(rt.budget().limits().max_items)) {
    throw Fault(
        "Range too big. The sandbox blocks ranges larger than " +
        std::to_string(rt.budget().limits().max_items));
  }
  return Value(std::shared_ptr<Object>(std::move(range)));
}

Value new_namespace(Runtime& rt, Args args) {
  Dict attributes = make_dict(rt, std::move(args));
  for (const auto& [name, value] : attributes.items()) {
    if (name.is_string() && name.as_string().starts_with('_')) {
      throw Fault(
          "Chat templates cannot store underscore-prefixed attributes on a "
          "namespace, but got '" +
          name.as_string() + "'. Please rename the attribute.");
    }
  }
  auto ns = std::make_shared<Namespace>(std::move(attributes));
  rt.keep(ns);
  return Value(std::shared_ptr<Object>(std::move(ns)));
}

class DictType : public Object {
 public:
  std::string type_name() const override {
    return "TemplateDict";
  }
  bool callable() const override {
    return true;
  }
  Value call(Runtime& rt, Args args) override {
    return Value::dict(make_dict(rt, std::move(args)));
  }
  std::optional<Value> attribute(Runtime&, std::string_view name) override {
    if (name != "fromkeys") {
      return std::nullopt;
    }
    return make_function("fromkeys", [](Runtime& rt, Args args) {
      Bound bound("fromkeys", std::move(args), {"iterable", "value"}, 1);
      Dict out;
      for (const Value& key : rt.to_vector(bound[0])) {
        out.set(key, bound.get(1, Value()));
      }
      return Value::dict(std::move(out));
    });
  }
};

class Cycler : public Object {
 public:
  explicit Cycler(Value items) : items_(std::move(items)) {}
  std::string type_name() const override {
    return "Cycler";
  }
  int depth() const override {
    return items_.depth() + 1;
  }
  std::optional<Value> attribute(Runtime&, std::string_view name) override {
    if (name == "current") {
      return items_.items()[*at_];
    }
    if (name == "pos") {
      return Value(*at_);
    }
    if (name == "items") {
      return items_;
    }
    if (name == "next" || name == "reset") {
      bool reset = name == "reset";
      return make_function(
          std::string(name),
          [items = items_, at = at_, reset](Runtime&, Args args) {
            expect_no_arguments("cycler", args);
            if (reset) {
              *at = 0;
              return Value();
            }
            Value out = items.items()[*at];
            *at = (*at + 1) % items.items().size();
            return out;
          },
          depth());
    }
    return std::nullopt;
  }

 private:
  Value items_;
  std::shared_ptr<std::size_t> at_ = std::make_shared<std::size_t>(0);
};

class Joiner : public Object {
 public:
  explicit Joiner(Value separator) : separator_(std::move(separator)) {}
  std::string type_name() const override {
    return "Joiner";
  }
  bool callable() const override {
    return true;
  }
  int depth() const override {
    return separator_.depth() + 1;
  }
  std::optional<Value> attribute(Runtime&, std::string_view name) override {
    return name == "sep" ? std::optional(separator_)
        : name == "used" ? std::optional<Value>(used_)
                         : std::nullopt;
  }
  Value call(Runtime&, Args args) override {
    expect_no_arguments("joiner", args);
    if (!used_) {
      used_ = true;
      return "";
    }
    return separator_;
  }

 private:
  Value separator_;
  bool used_ = false;
};

Value new_cycler(Runtime& rt, Args args) {
  if (!args.keyword.empty()) {
    throw Fault("cycler() takes no keyword arguments");
  }
  if (args.positional.empty()) {
    throw Fault("at least one item has to be provided");
  }
  return Value(std::shared_ptr<Object>(
      std::make_shared<Cycler>(rt.tuple(std::move(args.positional)))));
}

Value new_joiner(Runtime&, Args args) {
  Bound bound("joiner", std::move(args), {"sep"});
  return Value(std::shared_ptr<Object>(
      std::make_shared<Joiner>(bound.get(0, Value(", ")))));
}

Value raise_exception(Runtime& rt, Args args) {
  Bound bound("raise_exception", std::move(args), {"message"}, 1);
  throw Fault(rt.to_str(bound[0]));
}

Value strftime_now(Runtime& rt, Args args) {
  Bound bound("strftime_now", std::move(args), {"format"}, 1);
  std::string format(bound.text(0));
  if (format.size() > 1000) {
    throw Fault("the format of strftime_now is too long");
  }
  if (format.empty()) {
    return "";
  }
  // The space keeps an empty result apart from one that does not fit.
  format += ' ';
  std::string out(16 * format.size() + 64, '\0');
  out.resize(std::strftime(out.data(), out.size(), format.c_str(), &rt.now()));
  if (out.empty()) {
    throw Fault("the result of strftime_now is too long");
  }
  out.pop_back();
  return rt.str(std::move(out));
}

Value lipsum(Runtime&, Args) {
  throw Fault("the function 'lipsum' is not provided here");
}

} // namespace

std::optional<Value> find_global(std::string_view name) {
  if (name == "dict") {
    return Value(std::shared_ptr<Object>(std::make_shared<DictType>()));
  }
  struct Entry {
    std::string_view name;
    Value (*function)(Runtime&, Args);
  };
  static constexpr Entry table[] = {
      {"cycler", new_cycler},
      {"joiner", new_joiner},
      {"lipsum", lipsum},
      {"namespace", new_namespace},
      {"raise_exception", raise_exception},
      {"range", new_range},
      {"strftime_now", strftime_now}};
  for (const Entry& entry : table) {
    if (entry.name == name) {
      return make_function(std::string(name), entry.function);
    }
  }
  return std::nullopt;
}

} // namespace qwen3_mlx::jinja
