// SPDX-License-Identifier: MIT
#include "chat/jinja/runtime.h"

#include <algorithm>
#include <array>

#include "base/utf8.h"
#include "chat/jinja/builtins.h"
#include "chat/jinja/text.h"

namespace qwen3_mlx::jinja {

namespace {

class CharIterator : public Iterator {
 public:
  explicit CharIterator(Value text) : text_(std::move(text)) {}
  std::optional<Value> next(Runtime&) override {
    std::string_view rest = std::string_view(text_.as_string()).substr(at_);
    if (rest.empty()) {
      return std::nullopt;
    }
    std::size_t n = decode_utf8(rest).n_bytes;
    at_ += n;
    // Plain also for Markup, as iter() of Python has it.
    return Value(std::string(rest.substr(0, n)));
  }

 private:
  Value text_;
  std::size_t at_ = 0;
};

// What object_type_repr of Jinja says.
std::string describe_type(const Value& v) {
  return v.is_none() ? "None" : v.type_name() + " object";
}

// Every Python object has these; the sandbox hides them.
bool is_dunder(std::string_view name) {
  return name.size() > 4 && name.starts_with("__") && name.ends_with("__");
}

Value no_attribute(const Value& object, std::string_view name) {
  return Value::undefined(
      "'" + describe_type(object) + "' has no attribute '" + std::string(name) +
      "'");
}

// Resolves a slice of n items to first index, step and number of items.
struct SliceRange {
  std::int64_t first, step, count;
};

SliceRange resolve_slice(
    const Value& start,
    const Value& stop,
    const Value& step,
    std::int64_t n) {
  auto number = [](const Value& v) -> std::optional<std::int64_t> {
    if (v.is_none()) {
      return std::nullopt;
    }
    if (!v.is_integral()) {
      if (v.is_undefined()) {
        fail_undefined(v);
      }
      throw Fault("slice indices must be integers or None");
    }
    return v.as_int();
  };
  std::int64_t by = number(step).value_or(1);
  if (by == 0) {
    throw Fault("slice step cannot be zero");
  }
  by = std::max(by, -INT64_MAX);
  std::int64_t low = by > 0 ? 0 : -1;
  std::int64_t high = by > 0 ? n : n - 1;
  auto clamp = [&](std::optional<std::int64_t> v, std::int64_t otherwise) {
    if (!v) {
      return otherwise;
    }
    if (*v < 0) {
      return std::max(*v < -n ? low : *v + n, low);
    }
    return std::min(*v, high);
  };
  std::int64_t from = clamp(number(start), by > 0 ? low : high);
  std::int64_t to = clamp(number(stop), by > 0 ? high : low);
  std::int64_t distance = by > 0 ? to - from : from - to;
  std::int64_t stride = by > 0 ? by : -by;
  std::int64_t count = distance > 0 ? (distance - 1) / stride + 1 : 0;
  return {from, by, count};
}

} // namespace

void fail_undefined(const Value& undefined) {
  throw Fault(undefined.why());
}

Value Runtime::str(std::string text, bool markup) {
  budget_.charge_bytes(text.size());
  return Value(std::move(text), markup);
}

Value Runtime::list(std::vector<Value> items) {
  budget_.charge_items(items.size());
  return Value::list(std::move(items));
}

Value Runtime::tuple(std::vector<Value> items) {
  budget_.charge_items(items.size());
  return Value::tuple(std::move(items));
}

std::unique_ptr<Iterator> Runtime::iterate(const Value& v) {
  switch (v.kind()) {
  case Value::Kind::undefined:
    return iterate_values({});
  case Value::Kind::string:
    return std::make_unique<CharIterator>(v);
  case Value::Kind::list:
  case Value::Kind::tuple:
    return iterate_sequence(v);
  case Value::Kind::dict:
    return DictView(v.dict_ptr(), DictView::Part::keys).iterate();
  case Value::Kind::object:
    if (auto it = v.as_object().iterate()) {
      return it;
    }
    break;
  default:
    break;
  }
  throw Fault("'" + v.type_name() + "' object is not iterable");
}

std::vector<Value> Runtime::to_vector(const Value& v) {
  if (v.is_list() || v.is_tuple()) {
    budget_.charge_items(v.items().size());
    return v.items();
  }
  std::vector<Value> out;
  auto it = iterate(v);
  while (auto item = it->next(*this)) {
    budget_.charge();
    if (out.size() >= budget_.limits().max_items) {
      budget_.charge_items(out.size() + 1);
    }
    out.push_back(std::move(*item));
  }
  return out;
}

std::optional<std::size_t> Runtime::try_length(const Value& v) {
  switch (v.kind()) {
  case Value::Kind::undefined:
    return 0;
  case Value::Kind::string:
    budget_.charge(v.as_string().size() / 512);
    return jinja::length(v.as_string());
  case Value::Kind::list:
  case Value::Kind::tuple:
    return v.items().size();
  case Value::Kind::dict:
    return v.as_dict().size();
  case Value::Kind::object:
    return v.as_object().length(*this);
  default:
    return std::nullopt;
  }
}

std::size_t Runtime::length(const Value& v) {
  auto n = try_length(v);
  if (!n) {
    throw Fault("object of type '" + v.type_name() + "' has no len()");
  }
  return *n;
}

bool Runtime::contains(const Value& container, const Value& item) {
  switch (container.kind()) {
  case Value::Kind::string:
    if (!item.is_string()) {
      if (item.is_undefined()) {
        throw Fault(
            "'in <string>' requires string as left operand, not Undefined: " +
            item.why());
      }
      throw Fault(
          "'in <string>' requires string as left operand, not " +
          item.type_name());
    }
    budget_.charge(container.as_string().size() / 512);
    return container.as_string().find(item.as_string()) != std::string::npos;
  case Value::Kind::dict:
    return container.as_dict().find(item) != nullptr;
  case Value::Kind::none:
  case Value::Kind::boolean:
  case Value::Kind::integer:
  case Value::Kind::real:
    throw Fault(
        "argument of type '" + container.type_name() + "' is not iterable");
  default:
    break;
  }
  if (DictView* view = container.as<DictView>();
      view != nullptr && view->part() == DictView::Part::keys) {
    return view->dict().find(item) != nullptr;
  }
  if (Range* range = container.as<Range>();
      range != nullptr && !item.is_number()) {
    return false;
  }
  auto it = iterate(container);
  while (auto candidate = it->next(*this)) {
    budget_.charge();
    if (candidate->same_as(item) || equal(*candidate, item)) {
      return true;
    }
  }
  return false;
}

std::optional<Value>
Runtime::attribute(const Value& object, std::string_view name) {
  if (object.is_undefined()) {
    // Also for names the sandbox would hide: the object comes first.
    static constexpr std::array<std::string_view, 8> own = {
        "__class__",
        "__doc__",
        "__init__",
        "__module__",
        "__slots__",
        "__str__",
        "__eq__",
        "__hash__"};
    if (std::find(own.begin(), own.end(), name) != own.end()) {
      return Value::undefined(
          "access to attribute '" + std::string(name) +
          "' of 'Undefined' object is unsafe.");
    }
    if (is_dunder(name)) {
      return std::nullopt;
    }
    fail_undefined(object);
  }
  std::optional<Value> found = object.is_object()
      ? object.as_object().attribute(*this, name)
      : method(object, name);
  bool hidden = name.starts_with('_') && (found || is_dunder(name));
  if (hidden || is_mutating_method(object, name)) {
    return Value::undefined(
        "access to attribute '" + std::string(name) + "' of '" +
        object.type_name() + "' object is unsafe.");
  }
  return found;
}

Value Runtime::get_attr(const Value& object, std::string_view name) {
  if (auto found = attribute(object, name)) {
    return *found;
  }
  if (object.is_undefined()) {
    fail_undefined(object);
  }
  if (object.is_dict()) {
    if (const Value* value = object.as_dict().find(name)) {
      return *value;
    }
  } else if (object.is_object()) {
    if (auto value = object.as_object().item(*this, Value(name))) {
      return *value;
    }
  }
  return no_attribute(object, name);
}

Value Runtime::get_item(const Value& object, const Value& key) {
  switch (object.kind()) {
  case Value::Kind::undefined:
    fail_undefined(object);
  case Value::Kind::dict:
    // A list cannot be a key; Jinja treats that as absent.
    if (!key.is_list() && !key.is_dict()) {
      if (const Value* value = object.as_dict().find(key)) {
        return *value;
      }
    }
    break;
  case Value::Kind::list:
  case Value::Kind::tuple:
    if (key.is_integral()) {
      auto n = static_cast<std::int64_t>(object.items().size());
      std::int64_t at = key.as_int() < 0 ? key.as_int() + n : key.as_int();
      if (at >= 0 && at < n) {
        return object.items()[static_cast<std::size_t>(at)];
      }
    }
    break;
  case Value::Kind::string:
    if (key.is_integral()) {
      auto n = static_cast<std::int64_t>(jinja::length(object.as_string()));
      budget_.charge(object.as_string().size() / 256);
      std::int64_t at = key.as_int() < 0 ? key.as_int() + n : key.as_int();
      if (at >= 0 && at < n) {
        return get_slice(object, Value(at), Value(at + 1), Value());
      }
    }
    break;
  case Value::Kind::object:
    if (auto value = object.as_object().item(*this, key)) {
      return *value;
    }
    break;
  default:
    break;
  }
  if (key.is_string()) {
    if (auto found = attribute(object, key.as_string())) {
      return *found;
    }
    return no_attribute(object, key.as_string());
  }
  return Value::undefined(
      describe_type(object) + " has no element " + repr(key));
}

Value Runtime::get_slice(
    const Value& object,
    const Value& start,
    const Value& stop,
    const Value& step) {
  if (object.is_undefined()) {
    fail_undefined(object);
  }
  if (object.is_string()) {
    std::string_view text = object.as_string();
    budget_.charge(text.size() / 128);
    if (is_ascii(text)) {
      SliceRange r = resolve_slice(
          start, stop, step, static_cast<std::int64_t>(text.size()));
      if (r.step == 1) {
        return str(
            std::string(text.substr(
                static_cast<std::size_t>(r.count > 0 ? r.first : 0),
                static_cast<std::size_t>(r.count))),
            object.is_markup());
      }
    }
    std::u32string points = to_code_points(text);
    SliceRange r = resolve_slice(
        start, stop, step, static_cast<std::int64_t>(points.size()));
    std::u32string out;
    for (std::int64_t n = 0; n < r.count; ++n) {
      out += points[static_cast<std::size_t>(r.first + n * r.step)];
    }
    return str(to_utf8(out), object.is_markup());
  }
  if (object.is_list() || object.is_tuple()) {
    const std::vector<Value>& items = object.items();
    SliceRange r = resolve_slice(
        start, stop, step, static_cast<std::int64_t>(items.size()));
    std::vector<Value> out;
    for (std::int64_t n = 0; n < r.count; ++n) {
      out.push_back(items[static_cast<std::size_t>(r.first + n * r.step)]);
    }
    return object.is_list() ? list(std::move(out)) : tuple(std::move(out));
  }
  if (object.is_object()) {
    if (const auto tuple = object.as_object().as_tuple()) {
      return get_slice(*tuple, start, stop, step);
    }
  }
  if (Range* range = object.as<Range>()) {
    SliceRange r = resolve_slice(start, stop, step, range->size());
    return Value(std::shared_ptr<Object>(
        std::make_shared<Range>(range->slice(r.first, r.count, r.step))));
  }
  if (object.is_dict()) {
    throw Fault("unhashable type: 'slice'");
  }
  throw Fault("'" + object.type_name() + "' object is not subscriptable");
}

Value Runtime::call(const Value& callee, Args args) {
  if (callee.is_undefined()) {
    fail_undefined(callee);
  }
  if (!callee.is_object()) {
    throw Fault("'" + callee.type_name() + "' object is not callable");
  }
  // The callee must outlive its call.
  // NOLINTNEXTLINE(performance-unnecessary-copy-initialization)
  const std::shared_ptr<Object> object = callee.object_ptr();
  return object->call(*this, std::move(args));
}

Value Runtime::call_filter(
    const std::string& name,
    const Value& input,
    Args args) {
  Filter filter = find_filter(name);
  if (filter == nullptr) {
    throw Fault("No filter named '" + name + "' found.");
  }
  return filter(*this, input, std::move(args));
}

bool Runtime::call_test(
    const std::string& name,
    const Value& input,
    Args args) {
  Test test = find_test(name);
  if (test == nullptr) {
    throw Fault("No test named '" + name + "' found.");
  }
  return test(*this, input, std::move(args));
}

} // namespace qwen3_mlx::jinja
