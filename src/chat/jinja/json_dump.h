// SPDX-License-Identifier: MIT
// Values as JSON text, byte for byte as Python's json.dumps writes it.
#pragma once

#include <optional>
#include <string>

#include "chat/jinja/runtime.h"

namespace qwen3_mlx::jinja {

struct JsonDumpOptions {
  bool ensure_ascii = false;
  bool sort_keys = false;
  std::optional<std::string> indent; ///< Of one level; absent: one line.
  std::string item_separator = ", ";
  std::string key_separator = ": ";
};

/// Throws Fault for what JSON cannot hold.
std::string
dump_json(Runtime& rt, const Value& v, const JsonDumpOptions& options);

} // namespace qwen3_mlx::jinja
