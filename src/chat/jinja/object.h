// SPDX-License-Identifier: MIT
// Values with behaviour: functions, namespaces, macros, iterators.
#pragma once

#include <functional>

#include "chat/jinja/value.h"

namespace qwen3_mlx::jinja {

class Runtime;

/// Arguments of a call: positional ones, and keyword ones in order.
struct Args {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> keyword;
};

/// A one-way pass over values. next() may throw Fault.
class Iterator {
 public:
  virtual ~Iterator() = default;
  virtual std::optional<Value> next(Runtime& rt) = 0;
};

class Object {
 public:
  virtual ~Object() = default;

  virtual std::string type_name() const = 0;
  /// What object_type_repr() of Jinja calls it, used in error messages.
  virtual std::string repr(Runtime& rt) const;
  virtual bool truthy() const {
    return true;
  }
  virtual bool equals(const Object&) const {
    return false;
  }
  virtual bool is_hashable() const {
    return true;
  }
  /// How deep the values it keeps alive nest.
  virtual int depth() const {
    return 0;
  }
  /// The attribute `name`, nullopt when there is none.
  virtual std::optional<Value> attribute(Runtime&, std::string_view) {
    return std::nullopt;
  }
  /// obj[key]; nullopt for IndexError, KeyError and TypeError.
  virtual std::optional<Value> item(Runtime&, const Value&) {
    return std::nullopt;
  }
  virtual bool has_items() const {
    return false;
  }
  virtual std::optional<std::size_t> length(Runtime&) {
    return std::nullopt;
  }
  /// The tuple that it is a kind of, for what Python does with any tuple.
  virtual std::optional<Value> as_tuple() const {
    return std::nullopt;
  }
  /// nullptr when it cannot be iterated.
  virtual std::unique_ptr<Iterator> iterate() {
    return nullptr;
  }
  virtual std::unique_ptr<Iterator> iterate_reversed() {
    return nullptr;
  }
  virtual bool callable() const {
    return false;
  }
  virtual Value call(Runtime&, Args);
};

/// A function or bound method.
class Function : public Object {
 public:
  using Body = std::function<Value(Runtime&, Args)>;
  Function(std::string name, Body body, int depth = 0)
      : name_(std::move(name)), body_(std::move(body)), depth_(depth) {}

  std::string type_name() const override {
    return "builtin_function_or_method";
  }
  std::string repr(Runtime& rt) const override;
  bool callable() const override {
    return true;
  }
  int depth() const override {
    return depth_;
  }
  Value call(Runtime& rt, Args args) override {
    return body_(rt, std::move(args));
  }

 private:
  std::string name_;
  Body body_;
  int depth_;
};

/// What namespace() returns: the only value a template can change.
class Namespace : public Object {
 public:
  explicit Namespace(Dict attributes) : attributes_(std::move(attributes)) {}

  std::string type_name() const override {
    return "Namespace";
  }
  std::string repr(Runtime& rt) const override;
  std::optional<Value> attribute(Runtime&, std::string_view name) override;
  void set(std::string_view name, Value value);
  /// Drops the content, which may hold the namespace itself.
  void clear() {
    attributes_ = Dict();
  }

 private:
  Dict attributes_;
  mutable bool printing_ = false;
};

/// range(...).
class Range : public Object {
 public:
  Range(std::int64_t start, std::int64_t stop, std::int64_t step);

  std::string type_name() const override {
    return "range";
  }
  std::string repr(Runtime&) const override;
  bool truthy() const override {
    return n_ != 0;
  }
  bool equals(const Object& other) const override;
  std::optional<Value> attribute(Runtime&, std::string_view name) override;
  std::optional<Value> item(Runtime&, const Value& key) override;
  bool has_items() const override {
    return true;
  }
  std::optional<std::size_t> length(Runtime&) override {
    return static_cast<std::size_t>(n_);
  }
  std::unique_ptr<Iterator> iterate() override;
  std::unique_ptr<Iterator> iterate_reversed() override;
  std::int64_t size() const {
    return n_;
  }
  std::int64_t at(std::int64_t n) const {
    return start_ + n * step_;
  }
  Range slice(std::int64_t first, std::int64_t count, std::int64_t step) const {
    return Range(at(first), step_ * step, count, 0);
  }

 private:
  Range(std::int64_t start, std::int64_t step, std::int64_t n, int)
      : start_(start), stop_(start + n * step), step_(step), n_(n) {}
  std::int64_t start_, stop_, step_, n_;
};

/// dict.keys(), .values() or .items().
class DictView : public Object {
 public:
  enum class Part { keys, values, items };
  DictView(std::shared_ptr<const Dict> dict, Part part)
      : dict_(std::move(dict)), part_(part) {}

  std::string type_name() const override;
  std::string repr(Runtime& rt) const override;
  bool truthy() const override {
    return dict_->size() != 0;
  }
  bool equals(const Object& other) const override;
  bool is_hashable() const override {
    return part_ == Part::values; // The others are sets to Python.
  }
  int depth() const override {
    return dict_->depth() + 1;
  }
  std::optional<std::size_t> length(Runtime&) override {
    return dict_->size();
  }
  std::unique_ptr<Iterator> iterate() override;
  std::unique_ptr<Iterator> iterate_reversed() override;
  Value at(std::size_t n) const;
  const Dict& dict() const {
    return *dict_;
  }
  Part part() const {
    return part_;
  }

 private:
  std::shared_ptr<const Dict> dict_;
  Part part_;
};

/// A generator or iterator: can be walked once.
class Generator : public Object {
 public:
  Generator(std::unique_ptr<Iterator> it, std::string type, int depth);

  std::string type_name() const override {
    return type_;
  }
  int depth() const override {
    return depth_;
  }
  std::unique_ptr<Iterator> iterate() override;
  std::optional<Value> next(Runtime& rt) {
    return it_->next(rt);
  }

 private:
  // Shared: a pass over it may outlive the handle.
  std::shared_ptr<Iterator> it_;
  std::string type_;
  int depth_;
};

/// Walks a vector; `reversed` from its end.
std::unique_ptr<Iterator>
iterate_values(std::vector<Value> values, bool reversed = false);
/// Walks a list or tuple without copying it.
std::unique_ptr<Iterator> iterate_sequence(Value seq, bool reversed = false);
/// Calls `next` until it returns nullopt.
std::unique_ptr<Iterator>
iterate_with(std::function<std::optional<Value>(Runtime&)> next);
Value make_generator(
    std::unique_ptr<Iterator> it,
    int depth,
    std::string type = "generator");
Value make_function(std::string name, Function::Body body, int depth = 0);

} // namespace qwen3_mlx::jinja
