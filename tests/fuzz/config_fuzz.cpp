// SPDX-License-Identifier: MIT
// Any bytes as a config.json: every getter returns or throws an Error.
#include <cstdint>
#include <string_view>

#include "qwen3_mlx/config.h"
#include "qwen3_mlx/error.h"

namespace {

template <typename Read>
void ignore_errors(const Read& read) {
  try {
    read();
  } catch (const qwen3_mlx::Error&) {
  }
}

void check(const qwen3_mlx::Config& config) {
  for (const auto& key : config.keys()) {
    ignore_errors([&] { config.get_int(key, -5, 1000); });
    ignore_errors([&] { config.get_float(key); });
    ignore_errors([&] { config.get_bool(key); });
    ignore_errors([&] { config.get_string(key); });
    ignore_errors([&] { config.get_ints(key); });
    ignore_errors([&] { config.get_strings(key); });
    ignore_errors([&] { check(config.sub(key)); });
  }
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t n) {
  const std::string_view text(reinterpret_cast<const char*>(data), n);
  ignore_errors([&] {
    const auto config = qwen3_mlx::Config::parse("config.json", text);
    check(config);
    check(qwen3_mlx::Config::parse("config.json", config.dump()));
  });
  return 0;
}
