// SPDX-License-Identifier: MIT
// Filters that print values of any kind: tojson and pprint.
#include <algorithm>

#include "chat/jinja/args.h"
#include "chat/jinja/filters.h"
#include "chat/jinja/json_dump.h"
#include "chat/jinja/text.h"

namespace qwen3_mlx::jinja::filters {

namespace {

// What Python's pprint puts on one line.
constexpr std::size_t pretty_width = 80;

/// Keys of different kinds come in the order of their types' names, as pprint
/// sorts what Python cannot.
bool comes_before(const Value& a, const Value& b) {
  try {
    return less(a, b);
  } catch (const Fault&) {
    return a.type_name() < b.type_name();
  }
}

/// `v` with the keys of all its dicts in order.
Value sort_keys(Runtime& rt, const Value& v) {
  rt.budget().charge();
  if (v.is_dict()) {
    std::vector<const Dict::Item*> fields;
    for (const Dict::Item& field : v.as_dict().items()) {
      fields.push_back(&field);
    }
    std::stable_sort(
        fields.begin(), fields.end(), [](const auto* a, const auto* b) {
          return comes_before(a->first, b->first);
        });
    Dict sorted;
    for (const Dict::Item* field : fields) {
      sorted.set(sort_keys(rt, field->first), sort_keys(rt, field->second));
    }
    return Value::dict(std::move(sorted));
  }
  if (v.is_list() || v.is_tuple()) {
    std::vector<Value> items;
    for (const Value& item : v.items()) {
      items.push_back(sort_keys(rt, item));
    }
    return v.is_list() ? rt.list(std::move(items)) : rt.tuple(std::move(items));
  }
  return v;
}

} // namespace

Value to_json(Runtime& rt, const Value& in, Args args) {
  Bound bound(
      "tojson",
      std::move(args),
      {"ensure_ascii", "indent", "separators", "sort_keys"});
  JsonDumpOptions options;
  options.ensure_ascii = bound.truth(0, false);
  options.sort_keys = bound.truth(3, false);
  if (auto indent = bound.not_none(1)) {
    if (indent->is_string()) {
      options.indent = indent->as_string();
    } else {
      std::int64_t n = expect_integer(*indent);
      if (n > 1000) {
        throw Fault("tojson's indent is too large");
      }
      options.indent = std::string(
          static_cast<std::size_t>(std::max<std::int64_t>(n, 0)), ' ');
    }
    options.item_separator = ",";
  }
  if (auto separators = bound.not_none(2)) {
    std::vector<Value> parts = rt.to_vector(*separators);
    if (parts.size() != 2 || !parts[0].is_string() || !parts[1].is_string()) {
      throw Fault("tojson's separators must be two strings");
    }
    options.item_separator = parts[0].as_string();
    options.key_separator = parts[1].as_string();
  }
  return rt.str(dump_json(rt, in, options));
}

Value pretty(Runtime& rt, const Value& in, Args args) {
  expect_no_arguments("pprint", args);
  std::string text = rt.repr(sort_keys(rt, in));
  if (length(text) > pretty_width) {
    throw Fault("pprint is provided for values of up to 80 characters");
  }
  return rt.str(std::move(text));
}

} // namespace qwen3_mlx::jinja::filters
