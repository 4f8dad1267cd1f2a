// SPDX-License-Identifier: MIT
// Loops.
#include "chat/jinja/interpreter.h"
#include "chat/jinja/loop_object.h"

namespace qwen3_mlx::jinja {

// The items of a loop that pass its `if`. The test is a function of its own,
// and runs as the loop asks for items.
class LoopFilter : public Iterator {
 public:
  LoopFilter(
      Interpreter& in,
      const For& loop,
      std::unique_ptr<Iterator> it,
      Interpreter::ActivationPtr outer)
      : in_(in), loop_(loop), it_(std::move(it)),
        at_(in.activate(loop.test_slots, std::move(outer))) {}

  std::optional<Value> next(Runtime& rt) override {
    if (!entered_) {
      in_.enter(loop_.test_frame, at_);
      entered_ = true;
    }
    while (auto item = it_->next(rt)) {
      in_.assign(*loop_.test_target, std::move(*item), at_);
      if (truthy(in_.eval(*loop_.test, at_))) {
        // What the loop sees is rebuilt from the target's variables.
        return in_.eval(*loop_.test_target, at_);
      }
    }
    return std::nullopt;
  }

 private:
  Interpreter& in_;
  const For& loop_;
  std::unique_ptr<Iterator> it_;
  Interpreter::ActivationPtr at_;
  bool entered_ = false;
};

Interpreter::Flow
Interpreter::exec_for(const For& loop, const ActivationPtr& at) {
  Value iterable = eval(loop.iter, at);
  Flow flow = Flow::normal;
  if (!loop.recursive) {
    run_loop(loop, iterable, at, at, nullptr, 0, flow);
    return flow;
  }
  // The loop is a function that `loop(...)` calls again.
  auto render = std::make_shared<std::function<Value(const Value&, int)>>();
  std::weak_ptr<std::function<Value(const Value&, int)>> again = render;
  *render = [this, &loop, at, again](const Value& items, int depth) {
    Budget::Call call(budget());
    ActivationPtr own = activate(loop.n_slots, at);
    Leave leave_own{*this, own};
    Flow inner = Flow::normal;
    auto self = again.lock();
    auto recurse = make_function("loop", [self](Runtime&, Args args) {
      return (*self)(
          args.positional[0], static_cast<int>(args.positional[1].as_int()));
    });
    std::string text = capture([&] {
      run_loop(loop, items, at, own, recurse.object_ptr(), depth, inner);
    });
    return str(std::move(text));
  };
  write((*render)(iterable, 0).as_string());
  return Flow::normal;
}

void Interpreter::run_loop(
    const For& loop,
    const Value& iterable,
    const ActivationPtr& outer,
    const ActivationPtr& at,
    std::shared_ptr<Object> recurse,
    int depth,
    Flow& flow) {
  std::unique_ptr<Iterator> filtered;
  if (loop.test) {
    filtered =
        std::make_unique<LoopFilter>(*this, loop, iterate(iterable), outer);
  }
  std::shared_ptr<LoopObject> state;
  std::unique_ptr<Iterator> it;
  if (loop.extended) {
    LoopObject::Recurse again;
    if (recurse) {
      again = [recurse](Runtime& rt, const Value& items, int next_depth) {
        return recurse->call(rt, Args{{items, Value(next_depth)}, {}});
      };
    }
    state = filtered
        ? std::make_shared<LoopObject>(
              std::move(filtered), iterable.depth(), std::move(again), depth)
        : std::make_shared<LoopObject>(
              *this, iterable, std::move(again), depth);
  } else {
    it = filtered ? std::move(filtered) : iterate(iterable);
  }
  if (state) {
    slot(loop.loop_slot, at).reset();
  }
  bool any = false;
  while (true) {
    budget().charge();
    std::optional<Value> item = state ? state->advance(*this) : it->next(*this);
    if (!item) {
      break;
    }
    assign(loop.target, std::move(*item), at);
    if (state) {
      slot(loop.loop_slot, at) = Value(std::shared_ptr<Object>(state));
    }
    enter(loop.body_frame, at);
    Flow step = exec(loop.body, at);
    if (step == Flow::break_loop) {
      // As in Jinja, breaking out of the first round counts as no round.
      break;
    }
    // ... and so does `continue`, which skips the mark at the body's end.
    any = any || step == Flow::normal;
  }
  leave(loop.body_frame, at);
  if (!any && !loop.otherwise.empty()) {
    enter(loop.else_frame, at);
    flow = exec(loop.otherwise, at);
    leave(loop.else_frame, at);
  }
}

} // namespace qwen3_mlx::jinja
