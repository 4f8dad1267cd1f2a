// SPDX-License-Identifier: MIT
// The `loop` variable: knows where a for stands, and one item ahead.
#pragma once

#include "chat/jinja/object.h"

namespace qwen3_mlx::jinja {

class LoopObject : public Object,
                   public std::enable_shared_from_this<LoopObject> {
 public:
  /// `recurse` renders the loop's body over another iterable; null when the
  /// loop is not recursive.
  using Recurse = std::function<Value(Runtime&, const Value&, int depth)>;
  LoopObject(Runtime& rt, const Value& iterable, Recurse recurse, int depth0);
  LoopObject(
      std::unique_ptr<Iterator> it,
      int iterable_depth,
      Recurse recurse,
      int depth0);

  /// Goes to the next item; nullopt at the end.
  std::optional<Value> advance(Runtime& rt);

  std::string type_name() const override {
    return "LoopContext";
  }
  std::string repr(Runtime& rt) const override;
  std::optional<Value> attribute(Runtime& rt, std::string_view name) override;
  std::optional<std::size_t> length(Runtime& rt) override;
  /// Advances the loop itself and gives pairs (item, loop), as Jinja does.
  std::unique_ptr<Iterator> iterate() override;
  bool callable() const override {
    return true;
  }
  int depth() const override {
    return item_depth_;
  }
  Value call(Runtime& rt, Args args) override;

 private:
  const std::optional<Value>& peek(Runtime& rt);
  std::optional<Value> fetch(Runtime& rt);
  Value changed(Args args);

  std::unique_ptr<Iterator> it_;
  std::optional<std::size_t> length_;
  int item_depth_;
  Recurse recurse_;
  int depth0_;
  std::int64_t index0_ = -1;
  bool peeked_ = false;
  std::optional<Value> after_, current_, before_;
  std::optional<Value> last_changed_;
};

} // namespace qwen3_mlx::jinja
