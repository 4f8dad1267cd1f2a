// SPDX-License-Identifier: MIT
// Any bytes as a template: parsed, or refused with a place in the source.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "chat/jinja/template.h"
#include "qwen3_mlx/error.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t n) {
  std::string_view source(reinterpret_cast<const char*>(data), n);
  try {
    qwen3_mlx::jinja::Template parsed(source, "fuzz");
  } catch (const qwen3_mlx::TemplateError& e) {
    if (e.line() == 0 || e.column() == 0) {
      std::abort();
    }
  }
  return 0;
}
