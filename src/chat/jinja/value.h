// SPDX-License-Identifier: MIT
// The values of a template, as Python has them: None, bool, int, float, str,
// list, tuple, dict, Jinja's Undefined, and objects such as namespaces and
// macros. Values are immutable and cheap to copy (they share their content).
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include "chat/jinja/fault.h"

namespace qwen3_mlx::jinja {

class Value;
class Object;
class Dict;

/// A list or tuple's items, and how deep they nest.
struct Sequence {
  std::vector<Value> items;
  int depth = 1;
};

/// Result of reading a name or attribute that does not exist. Printing it
/// gives nothing; using it is an error that says `why`.
struct Undefined {
  std::shared_ptr<const std::string> why;
};

/// A str. `markup` marks what Python calls Markup: text that counts as HTML.
struct Str {
  std::shared_ptr<const std::string> text;
  bool markup = false;
};

class Value {
 public:
  enum class Kind {
    none,
    undefined,
    boolean,
    integer,
    real,
    string,
    list,
    tuple,
    dict,
    object
  };
  /// Containers nest at most this deep, so that walking one is safe.
  static constexpr int max_depth = 150;

  Value() = default; ///< None.
  Value(bool v) : v_(v) {}
  Value(std::int64_t v) : v_(v) {}
  Value(int v) : v_(std::int64_t{v}) {}
  Value(std::size_t v) : v_(static_cast<std::int64_t>(v)) {}
  Value(double v) : v_(v) {}
  Value(std::string text, bool markup = false)
      : v_(Str{std::make_shared<const std::string>(std::move(text)), markup}) {}
  Value(std::string_view text) : Value(std::string(text)) {}
  Value(const char* text) : Value(std::string(text)) {}
  Value(Str s) : v_(std::move(s)) {}
  Value(std::shared_ptr<const Dict> dict) : v_(std::move(dict)) {}
  Value(std::shared_ptr<Object> object) : v_(std::move(object)) {}
  static Value undefined(std::string why);
  /// Throws Fault when the items nest deeper than max_depth.
  static Value list(std::vector<Value> items);
  static Value tuple(std::vector<Value> items);
  static Value dict(Dict items);

  Kind kind() const;
  bool is_none() const {
    return kind() == Kind::none;
  }
  bool is_undefined() const {
    return kind() == Kind::undefined;
  }
  bool is_bool() const {
    return kind() == Kind::boolean;
  }
  bool is_int() const {
    return kind() == Kind::integer;
  }
  bool is_real() const {
    return kind() == Kind::real;
  }
  bool is_string() const {
    return kind() == Kind::string;
  }
  bool is_list() const {
    return kind() == Kind::list;
  }
  bool is_tuple() const {
    return kind() == Kind::tuple;
  }
  bool is_dict() const {
    return kind() == Kind::dict;
  }
  bool is_object() const {
    return kind() == Kind::object;
  }
  bool is_markup() const {
    return is_string() && std::get<Str>(v_).markup;
  }
  /// int or bool, which Python counts as an int.
  bool is_integral() const {
    return is_int() || is_bool();
  }
  bool is_number() const {
    return is_integral() || is_real();
  }

  // Each needs the kind to be right.
  bool as_bool() const {
    return std::get<bool>(v_);
  }
  std::int64_t as_int() const; ///< int or bool.
  double as_real() const;      ///< Any number.
  const std::string& as_string() const {
    return *std::get<Str>(v_).text;
  }
  const std::vector<Value>& items() const; ///< list or tuple.
  const Dict& as_dict() const {
    return *std::get<std::shared_ptr<const Dict>>(v_);
  }
  const std::shared_ptr<const Dict>& dict_ptr() const {
    return std::get<std::shared_ptr<const Dict>>(v_);
  }
  Object& as_object() const {
    return *std::get<std::shared_ptr<Object>>(v_);
  }
  const std::shared_ptr<Object>& object_ptr() const {
    return std::get<std::shared_ptr<Object>>(v_);
  }
  template <class T>
  T* as() const {
    return is_object() ? dynamic_cast<T*>(&as_object()) : nullptr;
  }
  const std::string& why() const; ///< of an Undefined.

  int depth() const;
  /// Python's `is`.
  bool same_as(const Value& other) const;
  /// Python's name of the type, as in "str" or "NoneType".
  std::string type_name() const;

 private:
  struct ListRef {
    std::shared_ptr<const Sequence> seq;
  };
  struct TupleRef {
    std::shared_ptr<const Sequence> seq;
  };
  std::variant<
      std::monostate,
      Undefined,
      bool,
      std::int64_t,
      double,
      Str,
      ListRef,
      TupleRef,
      std::shared_ptr<const Dict>,
      std::shared_ptr<Object>>
      v_;
};

/// Python's ==, for values of any types.
bool equal(const Value& a, const Value& b);
/// Equal values hash equal. Throws Fault for a list or dict.
std::size_t hash(const Value& v);
/// Python's bool(v).
bool truthy(const Value& v);

/// A dict: keeps the order in which keys were added.
class Dict {
 public:
  using Item = std::pair<Value, Value>;

  const std::vector<Item>& items() const {
    return items_;
  }
  std::size_t size() const {
    return items_.size();
  }
  /// nullptr when absent. Throws Fault when the key cannot be one (a list).
  const Value* find(const Value& key) const;
  template <class S>
  requires std::convertible_to<const S&, std::string_view>
  const Value* find(const S& key) const {
    return find_text(key);
  }
  /// Replaces the value of an equal key, else adds one at the end.
  void set(Value key, Value value);
  bool erase(const Value& key);
  int depth() const {
    return depth_;
  }

 private:
  const Value* find_text(std::string_view key) const;
  std::optional<std::size_t> index_of(const Value& key) const;

  std::vector<Item> items_;
  // Only for more than a few items: hash of a key -> its places.
  std::unordered_multimap<std::size_t, std::size_t> index_;
  int depth_ = 1;
};

} // namespace qwen3_mlx::jinja
