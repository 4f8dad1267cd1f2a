// SPDX-License-Identifier: MIT
#include "chat/json_text.h"

#include <limits>

#include "chat/jinja/json_dump.h"
#include "qwen3_mlx/error.h"

namespace qwen3_mlx {

namespace {

// A runtime for values that no template made: nothing to keep, no clock.
class PlainRuntime : public jinja::Runtime {
 public:
  using Runtime::Runtime;
  void keep(std::shared_ptr<jinja::Namespace>) override {}
  const std::tm& now() const override {
    return now_;
  }

 private:
  std::tm now_{};
};

} // namespace

std::string to_json(const jinja::Value& v) {
  TemplateLimits limits;
  limits.max_steps = limits.max_output_bytes =
      std::numeric_limits<std::size_t>::max() / 2;
  limits.max_time = std::chrono::hours(1);
  jinja::Budget budget(limits);
  PlainRuntime runtime(budget);
  try {
    return jinja::dump_json(runtime, v, {});
  } catch (const jinja::Fault& fault) {
    throw InvalidArgument(fault.what());
  }
}

std::string json_string(std::string_view text) {
  return to_json(jinja::Value(text));
}

} // namespace qwen3_mlx
