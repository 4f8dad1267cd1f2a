// SPDX-License-Identifier: MIT
#include "chat/jinja/loop_object.h"

#include "chat/jinja/args.h"

namespace qwen3_mlx::jinja {

LoopObject::LoopObject(
    Runtime& rt,
    const Value& iterable,
    Recurse recurse,
    int depth0)
    : it_(rt.iterate(iterable)), item_depth_(iterable.depth() + 1),
      recurse_(std::move(recurse)), depth0_(depth0) {
  length_ = rt.try_length(iterable);
}

LoopObject::LoopObject(
    std::unique_ptr<Iterator> it,
    int iterable_depth,
    Recurse recurse,
    int depth0)
    : it_(std::move(it)), item_depth_(iterable_depth + 1),
      recurse_(std::move(recurse)), depth0_(depth0) {}

std::optional<Value> LoopObject::fetch(Runtime& rt) {
  rt.budget().charge();
  return it_->next(rt);
}

const std::optional<Value>& LoopObject::peek(Runtime& rt) {
  // Past the end another look asks the iterator again, as Jinja does.
  if (!peeked_ || !after_) {
    after_ = fetch(rt);
    peeked_ = true;
  }
  return after_;
}

std::optional<Value> LoopObject::advance(Runtime& rt) {
  std::optional<Value> item;
  if (peeked_ && after_) {
    item = std::move(after_);
  } else {
    item = fetch(rt);
  }
  peeked_ = false;
  after_.reset();
  if (!item) {
    return std::nullopt;
  }
  ++index0_;
  before_ = std::move(current_);
  current_ = item;
  return item;
}

std::unique_ptr<Iterator> LoopObject::iterate() {
  return iterate_with(
      [self = shared_from_this()](Runtime& rt) -> std::optional<Value> {
        auto item = self->advance(rt);
        if (!item) {
          return std::nullopt;
        }
        return Value::tuple({std::move(*item), Value(self)});
      });
}

std::optional<std::size_t> LoopObject::length(Runtime& rt) {
  if (!length_) {
    std::vector<Value> rest;
    while (auto item = fetch(rt)) {
      rest.push_back(std::move(*item));
    }
    length_ = rest.size() + static_cast<std::size_t>(index0_ + 1) +
        (peeked_ && after_ ? 1 : 0);
    it_ = iterate_values(std::move(rest));
  }
  return length_;
}

std::string LoopObject::repr(Runtime& rt) const {
  auto& self = const_cast<LoopObject&>(*this);
  return "<LoopContext " + std::to_string(index0_ + 1) + "/" +
      std::to_string(*self.length(rt)) + ">";
}

std::optional<Value> LoopObject::attribute(Runtime& rt, std::string_view name) {
  if (name == "index0") {
    return Value(index0_);
  }
  if (name == "index") {
    return Value(index0_ + 1);
  }
  if (name == "first") {
    return Value(index0_ == 0);
  }
  if (name == "last") {
    return Value(!peek(rt).has_value());
  }
  if (name == "length") {
    return Value(*length(rt));
  }
  if (name == "revindex") {
    return Value(static_cast<std::int64_t>(*length(rt)) - index0_);
  }
  if (name == "revindex0") {
    return Value(static_cast<std::int64_t>(*length(rt)) - index0_ - 1);
  }
  if (name == "depth") {
    return Value(depth0_ + 1);
  }
  if (name == "depth0") {
    return Value(depth0_);
  }
  if (name == "previtem") {
    return index0_ == 0 || !before_
        ? Value::undefined("there is no previous item")
        : *before_;
  }
  if (name == "nextitem") {
    const std::optional<Value>& next = peek(rt);
    return next ? *next : Value::undefined("there is no next item");
  }
  if (name == "cycle") {
    std::int64_t at = index0_;
    return make_function("cycle", [at](Runtime&, Args args) {
      if (args.positional.empty() || !args.keyword.empty()) {
        throw Fault("no items for cycling given");
      }
      auto n = static_cast<std::int64_t>(args.positional.size());
      return args.positional[static_cast<std::size_t>(((at % n) + n) % n)];
    });
  }
  if (name == "changed") {
    return make_function(
        "changed", [self = shared_from_this()](Runtime&, Args args) {
          return self->changed(std::move(args));
        });
  }
  return std::nullopt;
}

Value LoopObject::changed(Args args) {
  if (!args.keyword.empty()) {
    throw Fault("changed() takes no keyword arguments");
  }
  Value now = Value::tuple(std::move(args.positional));
  bool is_new = !last_changed_ || !equal(*last_changed_, now);
  if (is_new) {
    last_changed_ = std::move(now);
  }
  return is_new;
}

Value LoopObject::call(Runtime& rt, Args args) {
  Bound bound("loop", std::move(args), {"iterable"}, 1);
  if (!recurse_) {
    throw Fault(
        "The loop must have the 'recursive' marker to be called recursively.");
  }
  return recurse_(rt, bound[0], depth0_ + 1);
}

} // namespace qwen3_mlx::jinja
