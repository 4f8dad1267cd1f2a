// SPDX-License-Identifier: MIT
// Any bytes as a template, rendered with values of every kind within small
// limits.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "chat/jinja/template.h"
#include "chat/json_value.h"
#include "qwen3_mlx/error.h"

namespace {

const qwen3_mlx::jinja::Dict& context() {
  static const qwen3_mlx::jinja::Value v = qwen3_mlx::parse_json(
      R"({"messages":[{"role":"user","content":"Hi é"},
          {"role":"assistant","content":null,"tool_calls":[{"function":
          {"name":"f","arguments":{"a":[1,2.5,true,null]}}}]}],
          "tools":null,"add_generation_prompt":true,"a":3,"f":-0.5,
          "s":"a,b c","l":[3,1,2],"d":{"k":"v"},"n":null,"t":true})",
      "context");
  return v.as_dict();
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t n) {
  std::string_view source(reinterpret_cast<const char*>(data), n);
  qwen3_mlx::TemplateLimits limits;
  limits.max_steps = 20'000;
  limits.max_output_bytes = 1 << 16;
  limits.max_items = 5'000;
  try {
    qwen3_mlx::jinja::Template(source, "fuzz")
        .render(context(), limits, std::tm{});
  } catch (const qwen3_mlx::TemplateError& e) {
    if (e.line() == 0 || e.column() == 0) {
      std::abort();
    }
  }
  return 0;
}
