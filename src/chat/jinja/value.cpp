// SPDX-License-Identifier: MIT
#include "chat/jinja/value.h"

#include <algorithm>
#include <cmath>
#include <functional>

#include "chat/jinja/object.h"

namespace qwen3_mlx::jinja {

namespace {

// Below this a linear search is faster than a hash table.
constexpr std::size_t small_dict = 8;

std::shared_ptr<const Sequence> make_sequence(std::vector<Value> items) {
  auto seq = std::make_shared<Sequence>();
  for (const Value& item : items) {
    seq->depth = std::max(seq->depth, item.depth() + 1);
  }
  if (seq->depth > Value::max_depth) {
    throw Fault("values nest too deeply");
  }
  seq->items = std::move(items);
  return seq;
}

std::size_t mix(std::size_t seed, std::size_t h) {
  return seed ^ (h + 0x9e3779b97f4a7c15ull + (seed << 6) + (seed >> 2));
}

// Whether a double is exactly an int64, which makes it equal to that int.
std::optional<std::int64_t> exact_int(double d) {
  // 2^63 is exact as a double, and the first value that does not fit.
  if (!(d >= -9223372036854775808.0 && d < 9223372036854775808.0) ||
      d != std::floor(d)) {
    return std::nullopt;
  }
  return static_cast<std::int64_t>(d);
}

bool equal_items(const std::vector<Value>& a, const std::vector<Value>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), equal);
}

bool equal_dicts(const Dict& a, const Dict& b) {
  if (a.size() != b.size()) {
    return false;
  }
  for (const auto& [key, value] : a.items()) {
    const Value* other = b.find(key);
    if (other == nullptr || !equal(value, *other)) {
      return false;
    }
  }
  return true;
}

} // namespace

Value Value::undefined(std::string why) {
  Value v;
  v.v_ = Undefined{std::make_shared<const std::string>(std::move(why))};
  return v;
}

Value Value::list(std::vector<Value> items) {
  Value v;
  v.v_ = ListRef{make_sequence(std::move(items))};
  return v;
}

Value Value::tuple(std::vector<Value> items) {
  Value v;
  v.v_ = TupleRef{make_sequence(std::move(items))};
  return v;
}

Value Value::dict(Dict items) {
  return Value(std::make_shared<const Dict>(std::move(items)));
}

Value::Kind Value::kind() const {
  // The order of the variant's alternatives is the order of Kind.
  return static_cast<Kind>(v_.index());
}

std::int64_t Value::as_int() const {
  if (const bool* b = std::get_if<bool>(&v_)) {
    return *b ? 1 : 0;
  }
  return std::get<std::int64_t>(v_);
}

double Value::as_real() const {
  if (const double* d = std::get_if<double>(&v_)) {
    return *d;
  }
  return static_cast<double>(as_int());
}

const std::vector<Value>& Value::items() const {
  if (const ListRef* list = std::get_if<ListRef>(&v_)) {
    return list->seq->items;
  }
  return std::get<TupleRef>(v_).seq->items;
}

const std::string& Value::why() const {
  return *std::get<Undefined>(v_).why;
}

int Value::depth() const {
  switch (kind()) {
  case Kind::list:
    return std::get<ListRef>(v_).seq->depth;
  case Kind::tuple:
    return std::get<TupleRef>(v_).seq->depth;
  case Kind::dict:
    return as_dict().depth();
  case Kind::object:
    return as_object().depth();
  default:
    return 0;
  }
}

bool Value::same_as(const Value& other) const {
  if (kind() != other.kind()) {
    return false;
  }
  switch (kind()) {
  case Kind::none:
    return true;
  case Kind::undefined:
    return &why() == &other.why();
  case Kind::boolean:
    return as_bool() == other.as_bool();
  case Kind::integer:
    // CPython keeps one object for each of these small ints, and folds
    // equal constants; a larger int's identity has no meaning.
    return as_int() == other.as_int();
  case Kind::real:
    return as_real() == other.as_real();
  case Kind::string:
    return std::get<Str>(v_).text == std::get<Str>(other.v_).text ||
        as_string() == other.as_string();
  case Kind::list:
    return std::get<ListRef>(v_).seq == std::get<ListRef>(other.v_).seq;
  case Kind::tuple:
    return std::get<TupleRef>(v_).seq == std::get<TupleRef>(other.v_).seq ||
        (items().empty() && other.items().empty());
  case Kind::dict:
    return dict_ptr() == other.dict_ptr();
  case Kind::object:
    return object_ptr() == other.object_ptr();
  }
  return false;
}

std::string Value::type_name() const {
  switch (kind()) {
  case Kind::none:
    return "NoneType";
  case Kind::undefined:
    return "Undefined";
  case Kind::boolean:
    return "bool";
  case Kind::integer:
    return "int";
  case Kind::real:
    return "float";
  case Kind::string:
    return is_markup() ? "Markup" : "str";
  case Kind::list:
    return "list";
  case Kind::tuple:
    return "tuple";
  case Kind::dict:
    return "dict";
  case Kind::object:
    return as_object().type_name();
  }
  return "object";
}

bool equal(const Value& a, const Value& b) {
  if (a.is_number() && b.is_number()) {
    if (a.is_integral() && b.is_integral()) {
      return a.as_int() == b.as_int();
    }
    if (a.is_real() && b.is_real()) {
      return a.as_real() == b.as_real();
    }
    auto whole = exact_int(a.is_real() ? a.as_real() : b.as_real());
    return whole && *whole == (a.is_real() ? b.as_int() : a.as_int());
  }
  if (a.kind() != b.kind()) {
    return false;
  }
  switch (a.kind()) {
  case Value::Kind::none:
  case Value::Kind::undefined:
    return true;
  case Value::Kind::string:
    return a.as_string() == b.as_string();
  case Value::Kind::list:
  case Value::Kind::tuple:
    return equal_items(a.items(), b.items());
  case Value::Kind::dict:
    return equal_dicts(a.as_dict(), b.as_dict());
  default:
    return a.object_ptr() == b.object_ptr() ||
        a.as_object().equals(b.as_object());
  }
}

std::size_t hash(const Value& v) {
  switch (v.kind()) {
  case Value::Kind::none:
    return 0x6e6f6e65;
  case Value::Kind::undefined:
    return 0x756e6465;
  case Value::Kind::boolean:
  case Value::Kind::integer:
    return std::hash<std::int64_t>{}(v.as_int());
  case Value::Kind::real: {
    auto whole = exact_int(v.as_real());
    return whole ? std::hash<std::int64_t>{}(*whole)
                 : std::hash<double>{}(v.as_real());
  }
  case Value::Kind::string:
    return std::hash<std::string>{}(v.as_string());
  case Value::Kind::tuple: {
    std::size_t h = 0x7475;
    for (const Value& item : v.items()) {
      h = mix(h, hash(item));
    }
    return h;
  }
  case Value::Kind::object:
    if (v.as_object().is_hashable()) {
      return std::hash<const void*>{}(&v.as_object());
    }
    [[fallthrough]];
  default:
    throw Fault("unhashable type: '" + v.type_name() + "'");
  }
}

bool truthy(const Value& v) {
  switch (v.kind()) {
  case Value::Kind::none:
  case Value::Kind::undefined:
    return false;
  case Value::Kind::boolean:
  case Value::Kind::integer:
    return v.as_int() != 0;
  case Value::Kind::real:
    return v.as_real() != 0;
  case Value::Kind::string:
    return !v.as_string().empty();
  case Value::Kind::list:
  case Value::Kind::tuple:
    return !v.items().empty();
  case Value::Kind::dict:
    return v.as_dict().size() != 0;
  case Value::Kind::object:
    return v.as_object().truthy();
  }
  return true;
}

std::optional<std::size_t> Dict::index_of(const Value& key) const {
  std::size_t h = hash(key);
  if (index_.empty()) {
    for (std::size_t n = 0; n < items_.size(); ++n) {
      if (equal(items_[n].first, key)) {
        return n;
      }
    }
    return std::nullopt;
  }
  auto [first, last] = index_.equal_range(h);
  for (; first != last; ++first) {
    if (equal(items_[first->second].first, key)) {
      return first->second;
    }
  }
  return std::nullopt;
}

const Value* Dict::find(const Value& key) const {
  auto n = index_of(key);
  return n ? &items_[*n].second : nullptr;
}

const Value* Dict::find_text(std::string_view key) const {
  if (index_.empty()) {
    for (const auto& [k, v] : items_) {
      if (k.is_string() && k.as_string() == key) {
        return &v;
      }
    }
    return nullptr;
  }
  return find(Value(key));
}

void Dict::set(Value key, Value value) {
  int depth = std::max(key.depth(), value.depth()) + 1;
  if (depth > Value::max_depth) {
    throw Fault("values nest too deeply");
  }
  depth_ = std::max(depth_, depth);
  if (auto n = index_of(key)) {
    items_[*n].second = std::move(value);
    return;
  }
  items_.emplace_back(std::move(key), std::move(value));
  if (!index_.empty()) {
    index_.emplace(hash(items_.back().first), items_.size() - 1);
  } else if (items_.size() > small_dict) {
    for (std::size_t n = 0; n < items_.size(); ++n) {
      index_.emplace(hash(items_[n].first), n);
    }
  }
}

bool Dict::erase(const Value& key) {
  auto n = index_of(key);
  if (!n) {
    return false;
  }
  items_.erase(items_.begin() + static_cast<std::ptrdiff_t>(*n));
  index_.clear();
  if (items_.size() > small_dict) {
    for (std::size_t at = 0; at < items_.size(); ++at) {
      index_.emplace(hash(items_[at].first), at);
    }
  }
  return true;
}

} // namespace qwen3_mlx::jinja
