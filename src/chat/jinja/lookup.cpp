// SPDX-License-Identifier: MIT
#include "chat/jinja/lookup.h"

#include <algorithm>

#include "chat/jinja/text.h"

namespace qwen3_mlx::jinja {

Lookup::Lookup(const Value& path, std::optional<Value> default_value)
    : default_(std::move(default_value)) {
  if (path.is_none()) {
    return;
  }
  if (!path.is_string()) {
    parts_.push_back(path);
    return;
  }
  for (std::string_view part : split(path.as_string(), ".", -1, false)) {
    bool number = !part.empty() && part.size() < 18 &&
        std::all_of(part.begin(), part.end(), [](char c) {
          return c >= '0' && c <= '9';
        });
    if (!number) {
      parts_.emplace_back(part);
      continue;
    }
    std::int64_t n = 0;
    for (char c : part) {
      n = n * 10 + (c - '0');
    }
    parts_.emplace_back(n);
  }
}

Value Lookup::get(Runtime& rt, const Value& from) const {
  Value out = from;
  for (const Value& part : parts_) {
    rt.budget().charge();
    out = rt.get_item(out, part);
    if (default_ && out.is_undefined()) {
      out = *default_;
    }
  }
  return out;
}

Value ignore_case(Runtime& rt, const Value& v) {
  if (!v.is_string()) {
    return v;
  }
  rt.budget().charge(v.as_string().size() / 64);
  return Value(lower(v.as_string()), v.is_markup());
}

} // namespace qwen3_mlx::jinja
