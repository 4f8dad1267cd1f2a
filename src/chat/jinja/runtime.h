// SPDX-License-Identifier: MIT
// What built-ins may use while a template runs: conversions, iteration,
// attribute access and calls with Python's rules, within the budget.
#pragma once

#include <ctime>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "chat/jinja/budget.h"
#include "chat/jinja/object.h"

namespace qwen3_mlx::jinja {

class Runtime {
 public:
  explicit Runtime(Budget& budget) : budget_(budget) {}
  virtual ~Runtime() = default;

  Budget& budget() {
    return budget_;
  }

  /// A new string, counted.
  Value str(std::string text, bool markup = false);
  /// A new list or tuple, counted.
  Value list(std::vector<Value> items);
  Value tuple(std::vector<Value> items);

  /// Python's str(v) and repr(v).
  std::string to_str(const Value& v);
  std::string repr(const Value& v);

  /// Throws Fault when v cannot be iterated.
  std::unique_ptr<Iterator> iterate(const Value& v);
  std::vector<Value> to_vector(const Value& v);
  /// Python's len(v); nullopt when it has none.
  std::optional<std::size_t> try_length(const Value& v);
  std::size_t length(const Value& v);
  bool contains(const Value& container, const Value& item);

  /// obj.name and obj[key] as Jinja's sandbox looks them up: both fall back to
  /// the other, and give Undefined when there is neither.
  Value get_attr(const Value& object, std::string_view name);
  Value get_item(const Value& object, const Value& key);
  /// A Python attribute (method or property): no fallback to items.
  std::optional<Value> attribute(const Value& object, std::string_view name);
  /// obj[start:stop:step].
  Value get_slice(
      const Value& object,
      const Value& start,
      const Value& stop,
      const Value& step);

  Value call(const Value& callee, Args args);
  Value call_filter(const std::string& name, const Value& input, Args args);
  bool call_test(const std::string& name, const Value& input, Args args);

  /// Remembers a namespace, to empty it when the rendering ends.
  virtual void keep(std::shared_ptr<Namespace> ns) = 0;
  /// Local time for strftime_now.
  virtual const std::tm& now() const = 0;

 private:
  void write_repr(std::string& out, const Value& v, int depth);

  Budget& budget_;
  std::vector<const void*> in_repr_; // Containers that are being written.
};

/// Python's repr of a str or float.
std::string repr_string(std::string_view text);
std::string repr_double(double d);

/// Fault for what Python calls a TypeError about an operand.
[[noreturn]] void fail_undefined(const Value& undefined);

Value add(Runtime& rt, const Value& a, const Value& b);
Value subtract(const Value& a, const Value& b);
Value multiply(Runtime& rt, const Value& a, const Value& b);
Value divide(const Value& a, const Value& b);
Value floor_divide(const Value& a, const Value& b);
Value modulo(Runtime& rt, const Value& a, const Value& b);
Value power(const Value& a, const Value& b);
Value negate(const Value& v);
Value positive(const Value& v);
/// a < b, for values that Python can order. `op` is for the error message.
bool less(const Value& a, const Value& b, const char* op = "<");

/// HTML escaping as markupsafe does it.
std::string escape_html(std::string_view text);

} // namespace qwen3_mlx::jinja
