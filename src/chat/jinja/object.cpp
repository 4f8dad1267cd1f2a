// SPDX-License-Identifier: MIT
#include "chat/jinja/object.h"

#include "chat/jinja/args.h"
#include "chat/jinja/runtime.h"

namespace qwen3_mlx::jinja {

namespace {

class SequenceIterator : public Iterator {
 public:
  SequenceIterator(Value seq, bool reversed)
      : seq_(std::move(seq)), reversed_(reversed) {}
  std::optional<Value> next(Runtime&) override {
    const std::vector<Value>& items = seq_.items();
    if (at_ == items.size()) {
      return std::nullopt;
    }
    std::size_t n = at_++;
    return items[reversed_ ? items.size() - 1 - n : n];
  }

 private:
  Value seq_;
  bool reversed_;
  std::size_t at_ = 0;
};

class FunctionIterator : public Iterator {
 public:
  explicit FunctionIterator(std::function<std::optional<Value>(Runtime&)> next)
      : next_(std::move(next)) {}
  std::optional<Value> next(Runtime& rt) override {
    return next_(rt);
  }

 private:
  std::function<std::optional<Value>(Runtime&)> next_;
};

} // namespace

std::string Object::repr(Runtime&) const {
  return "<" + type_name() + " object>";
}

Value Object::call(Runtime&, Args) {
  throw Fault("'" + type_name() + "' object is not callable");
}

std::string Function::repr(Runtime&) const {
  return "<built-in method " + name_ + ">";
}

std::string Namespace::repr(Runtime& rt) const {
  if (printing_) {
    return "<Namespace {...}>"; // It holds itself.
  }
  struct Printing {
    bool& flag;
    ~Printing() {
      flag = false;
    }
  } guard{printing_};
  printing_ = true;
  return "<Namespace " + rt.repr(Value::dict(attributes_)) + ">";
}

std::optional<Value> Namespace::attribute(Runtime&, std::string_view name) {
  const Value* value = attributes_.find(name);
  return value ? std::optional(*value) : std::nullopt;
}

void Namespace::set(std::string_view name, Value value) {
  attributes_.set(Value(name), std::move(value));
}

Range::Range(std::int64_t start, std::int64_t stop, std::int64_t step)
    : start_(start), stop_(stop), step_(step), n_(0) {
  // In 128 bits the distance and the step cannot overflow.
  __extension__ using Wide = __int128;
  Wide distance = step > 0 ? Wide{stop} - start : Wide{start} - stop;
  Wide stride = step > 0 ? Wide{step} : -Wide{step};
  if (distance > 0) {
    Wide n = (distance + stride - 1) / stride;
    n_ = n > INT64_MAX ? INT64_MAX : static_cast<std::int64_t>(n);
  }
}

std::string Range::repr(Runtime&) const {
  std::string text =
      "range(" + std::to_string(start_) + ", " + std::to_string(stop_);
  return step_ == 1 ? text + ")" : text + ", " + std::to_string(step_) + ")";
}

bool Range::equals(const Object& other) const {
  const auto* r = dynamic_cast<const Range*>(&other);
  return r != nullptr && n_ == r->n_ &&
      (n_ == 0 || (start_ == r->start_ && (n_ == 1 || step_ == r->step_)));
}

std::optional<Value> Range::attribute(Runtime&, std::string_view name) {
  if (name == "start") {
    return Value(start_);
  }
  if (name == "stop") {
    return Value(stop_);
  }
  if (name == "step") {
    return Value(step_);
  }
  if (name == "count" || name == "index") {
    const bool counts = name == "count";
    return make_function(
        std::string(name), [self = *this, counts](Runtime& rt, Args args) {
          Bound bound(
              counts ? "count" : "index", std::move(args), {"value"}, 1);
          for (std::int64_t n = 0; n < self.n_; ++n) {
            rt.budget().charge();
            if (equal(Value(self.at(n)), bound[0])) {
              return Value(counts ? 1 : n);
            }
          }
          if (counts) {
            return Value(0);
          }
          throw Fault(rt.repr(bound[0]) + " is not in range");
        });
  }
  return std::nullopt;
}

std::optional<Value> Range::item(Runtime&, const Value& key) {
  if (!key.is_integral()) {
    return std::nullopt;
  }
  std::int64_t n = key.as_int();
  if (n < 0) {
    n += n_;
  }
  return n >= 0 && n < n_ ? std::optional<Value>(at(n)) : std::nullopt;
}

std::unique_ptr<Iterator> Range::iterate() {
  return iterate_with(
      [range = *this,
       n = std::int64_t{0}](Runtime&) mutable -> std::optional<Value> {
        return n < range.size() ? std::optional<Value>(range.at(n++))
                                : std::nullopt;
      });
}

std::unique_ptr<Iterator> Range::iterate_reversed() {
  return iterate_with(
      [range = *this, n = n_](Runtime&) mutable -> std::optional<Value> {
        return n > 0 ? std::optional<Value>(range.at(--n)) : std::nullopt;
      });
}

std::string DictView::type_name() const {
  switch (part_) {
  case Part::keys:
    return "dict_keys";
  case Part::values:
    return "dict_values";
  case Part::items:
    return "dict_items";
  }
  return "dict_keys";
}

Value DictView::at(std::size_t n) const {
  const auto& [key, value] = dict_->items()[n];
  switch (part_) {
  case Part::keys:
    return key;
  case Part::values:
    return value;
  case Part::items:
    return Value::tuple({key, value});
  }
  return key;
}

std::string DictView::repr(Runtime& rt) const {
  std::vector<Value> items;
  for (std::size_t n = 0; n < dict_->size(); ++n) {
    items.push_back(at(n));
  }
  return type_name() + "(" + rt.repr(Value::list(std::move(items))) + ")";
}

bool DictView::equals(const Object& other) const {
  const auto* view = dynamic_cast<const DictView*>(&other);
  if (view == nullptr || part_ == Part::values || part_ != view->part_ ||
      dict_->size() != view->dict_->size()) {
    return false;
  }
  for (const auto& [key, value] : dict_->items()) {
    const Value* theirs = view->dict_->find(key);
    if (theirs == nullptr || (part_ == Part::items && !equal(value, *theirs))) {
      return false;
    }
  }
  return true;
}

std::unique_ptr<Iterator> DictView::iterate() {
  return iterate_with(
      [view = *this,
       n = std::size_t{0}](Runtime&) mutable -> std::optional<Value> {
        return n < view.dict_->size() ? std::optional(view.at(n++))
                                      : std::nullopt;
      });
}

std::unique_ptr<Iterator> DictView::iterate_reversed() {
  return iterate_with(
      [view = *this,
       n = dict_->size()](Runtime&) mutable -> std::optional<Value> {
        return n > 0 ? std::optional(view.at(--n)) : std::nullopt;
      });
}

Generator::Generator(std::unique_ptr<Iterator> it, std::string type, int depth)
    : it_(std::move(it)), type_(std::move(type)), depth_(depth) {
  if (depth_ > Value::max_depth) {
    throw Fault("iterators nest too deeply");
  }
}

std::unique_ptr<Iterator> Generator::iterate() {
  return iterate_with([it = it_](Runtime& rt) { return it->next(rt); });
}

std::unique_ptr<Iterator>
iterate_values(std::vector<Value> values, bool reversed) {
  return iterate_sequence(Value::list(std::move(values)), reversed);
}

std::unique_ptr<Iterator> iterate_sequence(Value seq, bool reversed) {
  return std::make_unique<SequenceIterator>(std::move(seq), reversed);
}

std::unique_ptr<Iterator>
iterate_with(std::function<std::optional<Value>(Runtime&)> next) {
  return std::make_unique<FunctionIterator>(std::move(next));
}

Value make_generator(
    std::unique_ptr<Iterator> it,
    int depth,
    std::string type) {
  return Value(std::shared_ptr<Object>(
      std::make_shared<Generator>(std::move(it), std::move(type), depth)));
}

Value make_function(std::string name, Function::Body body, int depth) {
  return Value(std::shared_ptr<Object>(
      std::make_shared<Function>(std::move(name), std::move(body), depth)));
}

} // namespace qwen3_mlx::jinja
