// SPDX-License-Identifier: MIT
// Filters on lists, dicts and whatever can be iterated. Those that Python
// writes as generators do nothing until their result is iterated.
#include <algorithm>

#include "chat/jinja/args.h"
#include "chat/jinja/filters.h"
#include "chat/jinja/lookup.h"
#include "chat/jinja/text.h"

namespace qwen3_mlx::jinja::filters {

namespace {

// A generator whose source is made when it is first asked: errors of the
// arguments come then, too.
Value lazy(
    const Value& in,
    std::function<std::unique_ptr<Iterator>(Runtime&)> start) {
  auto it = std::make_shared<std::unique_ptr<Iterator>>();
  bool started = false;
  return make_generator(
      iterate_with(
          [it, start = std::move(start), started](
              Runtime& rt) mutable -> std::optional<Value> {
            Budget::Nesting nesting(rt.budget());
            if (!started) {
              started = true;
              *it = start(rt);
            }
            rt.budget().charge();
            return *it ? (*it)->next(rt) : std::nullopt;
          }),
      in.depth() + 1);
}

// What groupby yields: a tuple with names for its two places.
class Group : public Object {
 public:
  Group(Value grouper, Value list)
      : grouper_(std::move(grouper)), list_(std::move(list)) {}
  std::string type_name() const override {
    return "_GroupTuple";
  }
  std::string repr(Runtime& rt) const override {
    return rt.repr(*as_tuple());
  }
  int depth() const override {
    return std::max(grouper_.depth(), list_.depth()) + 1;
  }
  std::optional<Value> attribute(Runtime&, std::string_view name) override {
    return name == "grouper" ? std::optional(grouper_)
        : name == "list"     ? std::optional(list_)
                             : std::nullopt;
  }
  std::optional<Value> item(Runtime&, const Value& key) override {
    if (!key.is_integral()) {
      return std::nullopt;
    }
    std::int64_t n = key.as_int();
    return n == 0 || n == -2 ? std::optional(grouper_)
        : n == 1 || n == -1  ? std::optional(list_)
                             : std::nullopt;
  }
  bool has_items() const override {
    return true;
  }
  std::optional<std::size_t> length(Runtime&) override {
    return 2;
  }
  std::optional<Value> as_tuple() const override {
    return Value::tuple({grouper_, list_});
  }
  std::unique_ptr<Iterator> iterate() override {
    return iterate_values({grouper_, list_});
  }

 private:
  Value grouper_, list_;
};

// Items with the keys they are sorted by.
struct Keyed {
  Value key, item;
};

void sort_keyed(Runtime& rt, std::vector<Keyed>& items, bool reverse) {
  std::stable_sort(
      items.begin(), items.end(), [&](const Keyed& a, const Keyed& b) {
        rt.budget().charge();
        return reverse ? less(b.key, a.key) : less(a.key, b.key);
      });
}

std::vector<Lookup> multi_lookup(const Value& attribute) {
  std::vector<Lookup> out;
  if (attribute.is_string()) {
    for (std::string_view part : split(attribute.as_string(), ",", -1, false)) {
      out.emplace_back(Value(part));
    }
  } else {
    out.emplace_back(attribute);
  }
  return out;
}

Value extreme(Runtime& rt, const Value& in, Args args, bool largest) {
  Bound bound("min", std::move(args), {"case_sensitive", "attribute"});
  bool sensitive = bound.truth(0, false);
  Lookup lookup(bound.get(1, Value()));
  auto it = rt.iterate(in);
  std::optional<Keyed> best;
  while (auto item = it->next(rt)) {
    rt.budget().charge();
    Value key = lookup.get(rt, *item);
    if (!sensitive) {
      key = ignore_case(rt, key);
    }
    if (!best || (largest ? less(best->key, key, ">") : less(key, best->key))) {
      best = Keyed{std::move(key), std::move(*item)};
    }
  }
  return best ? best->item
              : Value::undefined("No aggregated item, sequence was empty.");
}

// select, reject and their attr forms.
Value selected(const Value& in, Args args, bool wanted, bool by_attribute) {
  return lazy(
      in,
      [in, args = std::move(args), wanted, by_attribute](
          Runtime& rt) mutable -> std::unique_ptr<Iterator> {
        if (!truthy(in)) {
          return nullptr;
        }
        std::optional<Lookup> lookup;
        std::size_t used = 0;
        if (by_attribute) {
          if (args.positional.empty()) {
            throw Fault("Missing parameter for attribute name");
          }
          lookup.emplace(args.positional[0]);
          used = 1;
        }
        std::optional<std::string> test;
        if (args.positional.size() > used) {
          test = rt.to_str(args.positional[used]);
          ++used;
        }
        Args rest;
        rest.positional.assign(
            args.positional.begin() + static_cast<std::ptrdiff_t>(used),
            args.positional.end());
        rest.keyword = args.keyword;
        std::shared_ptr<Iterator> it = rt.iterate(in);
        return iterate_with(
            [it, lookup, test, rest, wanted](
                Runtime& run) -> std::optional<Value> {
              while (auto item = it->next(run)) {
                run.budget().charge();
                Value v = lookup ? lookup->get(run, *item) : *item;
                bool fits = test ? run.call_test(*test, v, rest) : truthy(v);
                if (fits == wanted) {
                  return item;
                }
              }
              return std::nullopt;
            });
      });
}

} // namespace

Value attr(Runtime& rt, const Value& in, Args args) {
  Bound bound("attr", std::move(args), {"name"}, 1);
  std::string name(bound.text(0));
  if (auto found = rt.attribute(in, name)) {
    return *found;
  }
  if (in.is_undefined()) {
    fail_undefined(in);
  }
  return Value::undefined(
      "'" + in.type_name() + " object' has no attribute '" + name + "'");
}

Value batch(Runtime&, const Value& in, Args args) {
  Bound bound("batch", std::move(args), {"linecount", "fill_with"}, 1);
  const Value& count = bound[0];
  std::optional<Value> fill = bound.not_none(1);
  return lazy(in, [in, count, fill](Runtime& rt) {
    std::shared_ptr<Iterator> it = rt.iterate(in);
    return iterate_with(
        [it, count, fill, held = std::optional<Value>(), done = false](
            Runtime& run) mutable -> std::optional<Value> {
          std::vector<Value> row;
          if (held) {
            row.push_back(std::move(*held));
            held.reset();
          }
          while (!done) {
            auto item = it->next(run);
            run.budget().charge();
            if (!item) {
              done = true;
              break;
            }
            if (equal(Value(row.size()), count)) {
              held = std::move(item);
              return run.list(std::move(row));
            }
            row.push_back(std::move(*item));
          }
          if (row.empty()) {
            return std::nullopt;
          }
          if (fill && less(Value(row.size()), count)) {
            std::int64_t missing =
                expect_integer(subtract(count, Value(row.size())));
            run.budget().charge_items(static_cast<std::size_t>(missing));
            row.insert(row.end(), static_cast<std::size_t>(missing), *fill);
          }
          return run.list(std::move(row));
        });
  });
}

Value count(Runtime& rt, const Value& in, Args args) {
  expect_no_arguments("len", args);
  return rt.length(in);
}

Value default_value(Runtime&, const Value& in, Args args) {
  Bound bound("default", std::move(args), {"default_value", "boolean"});
  if (in.is_undefined() || (bound.truth(1, false) && !truthy(in))) {
    return bound.get(0, Value(""));
  }
  return in;
}

Value dict_sort(Runtime& rt, const Value& in, Args args) {
  Bound bound("dictsort", std::move(args), {"case_sensitive", "by", "reverse"});
  Value by = bound.get(1, Value("key"));
  bool by_value = equal(by, Value("value"));
  if (!by_value && !equal(by, Value("key"))) {
    throw Fault("You can only sort by either \"key\" or \"value\"");
  }
  if (in.is_undefined()) {
    fail_undefined(in);
  }
  if (!in.is_dict()) {
    throw Fault("'" + in.type_name() + "' object has no attribute 'items'");
  }
  std::vector<Keyed> pairs;
  for (const auto& [key, value] : in.as_dict().items()) {
    Value by_what = by_value ? value : key;
    pairs.push_back(
        {bound.truth(0, false) ? by_what : ignore_case(rt, by_what),
         Value::tuple({key, value})});
  }
  sort_keyed(rt, pairs, bound.truth(2, false));
  std::vector<Value> out;
  out.reserve(pairs.size());
  for (Keyed& pair : pairs) {
    out.push_back(std::move(pair.item));
  }
  return rt.list(std::move(out));
}

Value first(Runtime& rt, const Value& in, Args args) {
  expect_no_arguments("first", args);
  auto item = rt.iterate(in)->next(rt);
  return item ? *item : Value::undefined("No first item, sequence was empty.");
}

Value last(Runtime& rt, const Value& in, Args args) {
  expect_no_arguments("last", args);
  Value nothing = Value::undefined("No last item, sequence was empty.");
  switch (in.kind()) {
  case Value::Kind::undefined:
    return nothing;
  case Value::Kind::string:
    return in.as_string().empty() ? nothing : rt.get_item(in, Value(-1));
  case Value::Kind::list:
  case Value::Kind::tuple:
    return in.items().empty() ? nothing : in.items().back();
  case Value::Kind::dict:
    return in.as_dict().size() == 0 ? nothing
                                    : in.as_dict().items().back().first;
  case Value::Kind::object:
    if (auto it = in.as_object().iterate_reversed()) {
      auto item = it->next(rt);
      return item ? *item : nothing;
    }
    if (in.as_object().has_items()) {
      return rt.get_item(in, Value(-1));
    }
    break;
  default:
    break;
  }
  throw Fault("'" + in.type_name() + "' object is not reversible");
}

Value group_by(Runtime& rt, const Value& in, Args args) {
  Bound bound(
      "groupby",
      std::move(args),
      {"attribute", "default", "case_sensitive"},
      1);
  Lookup lookup(bound[0], bound.not_none(1));
  bool sensitive = bound.truth(2, false);
  std::vector<Keyed> items;
  for (Value& item : rt.to_vector(in)) {
    Value key = lookup.get(rt, item);
    items.push_back({sensitive ? key : ignore_case(rt, key), std::move(item)});
  }
  sort_keyed(rt, items, false);
  std::vector<Value> out;
  for (std::size_t n = 0; n < items.size();) {
    std::size_t end = n;
    std::vector<Value> members;
    while (end < items.size() && equal(items[end].key, items[n].key)) {
      members.push_back(items[end++].item);
    }
    Value grouper = sensitive ? items[n].key : lookup.get(rt, members[0]);
    out.emplace_back(std::shared_ptr<Object>(std::make_shared<Group>(
        std::move(grouper), rt.list(std::move(members)))));
    n = end;
  }
  return rt.list(std::move(out));
}

Value items(Runtime&, const Value& in, Args args) {
  expect_no_arguments("items", args);
  return lazy(in, [in](Runtime&) -> std::unique_ptr<Iterator> {
    if (in.is_undefined()) {
      return nullptr;
    }
    if (!in.is_dict()) {
      throw Fault("Can only get item pairs from a mapping.");
    }
    return DictView(in.dict_ptr(), DictView::Part::items).iterate();
  });
}

Value join(Runtime& rt, const Value& in, Args args) {
  Bound bound("join", std::move(args), {"d", "attribute"});
  std::optional<Lookup> lookup;
  if (auto attribute = bound.not_none(1)) {
    lookup.emplace(*attribute);
  }
  std::string separator = bound.has(0) ? rt.to_str(bound[0]) : "";
  std::string out;
  bool first_item = true;
  auto it = rt.iterate(in);
  while (auto item = it->next(rt)) {
    rt.budget().charge();
    if (!first_item) {
      out += separator;
    }
    first_item = false;
    out += rt.to_str(lookup ? lookup->get(rt, *item) : *item);
    rt.budget().charge_bytes(out.size() > (1u << 20) ? out.size() : 0);
  }
  return rt.str(std::move(out));
}

Value list(Runtime& rt, const Value& in, Args args) {
  expect_no_arguments("list", args);
  return rt.list(rt.to_vector(in));
}

Value map(Runtime&, const Value& in, Args args) {
  return lazy(
      in,
      [in, args = std::move(args)](
          Runtime& rt) mutable -> std::unique_ptr<Iterator> {
        if (!truthy(in)) {
          return nullptr;
        }
        if (args.positional.empty()) {
          std::optional<Value> attribute;
          std::optional<Value> otherwise;
          for (auto& [name, value] : args.keyword) {
            if (name == "attribute") {
              attribute = value;
            } else if (name == "default") {
              otherwise = value.is_none() ? std::nullopt : std::optional(value);
            }
          }
          if (!attribute) {
            throw Fault("map requires a filter argument");
          }
          for (auto& [name, value] : args.keyword) {
            if (name != "attribute" && name != "default") {
              throw Fault("Unexpected keyword argument '" + name + "'");
            }
          }
          std::shared_ptr<Iterator> it = rt.iterate(in);
          return iterate_with(
              [it, lookup = Lookup(*attribute, otherwise)](
                  Runtime& run) -> std::optional<Value> {
                auto item = it->next(run);
                return item ? std::optional(lookup.get(run, *item))
                            : std::nullopt;
              });
        }
        std::string filter = rt.to_str(args.positional[0]);
        Args rest;
        rest.positional.assign(
            args.positional.begin() + 1, args.positional.end());
        rest.keyword = args.keyword;
        std::shared_ptr<Iterator> it = rt.iterate(in);
        return iterate_with(
            [it, filter, rest](Runtime& run) -> std::optional<Value> {
              auto item = it->next(run);
              return item ? std::optional(run.call_filter(filter, *item, rest))
                          : std::nullopt;
            });
      });
}

Value max(Runtime& rt, const Value& in, Args args) {
  return extreme(rt, in, std::move(args), true);
}

Value min(Runtime& rt, const Value& in, Args args) {
  return extreme(rt, in, std::move(args), false);
}

Value select(Runtime&, const Value& in, Args args) {
  return selected(in, std::move(args), true, false);
}

Value reject(Runtime&, const Value& in, Args args) {
  return selected(in, std::move(args), false, false);
}

Value select_attr(Runtime&, const Value& in, Args args) {
  return selected(in, std::move(args), true, true);
}

Value reject_attr(Runtime&, const Value& in, Args args) {
  return selected(in, std::move(args), false, true);
}

Value reverse(Runtime& rt, const Value& in, Args args) {
  expect_no_arguments("reverse", args);
  switch (in.kind()) {
  case Value::Kind::string:
    return rt.get_slice(in, Value(), Value(), Value(-1));
  case Value::Kind::undefined:
    return make_generator(iterate_values({}), 1, "reversed");
  case Value::Kind::list:
    return make_generator(
        iterate_sequence(in, true), in.depth() + 1, "list_reverseiterator");
  case Value::Kind::tuple:
    return make_generator(
        iterate_sequence(in, true), in.depth() + 1, "reversed");
  case Value::Kind::dict:
    return make_generator(
        DictView(in.dict_ptr(), DictView::Part::keys).iterate_reversed(),
        in.depth() + 1,
        "dict_reversekeyiterator");
  case Value::Kind::object:
    if (auto it = in.as_object().iterate_reversed()) {
      return make_generator(std::move(it), in.depth() + 1, "reversed");
    }
    break;
  default:
    throw Fault("argument must be iterable");
  }
  std::vector<Value> values = rt.to_vector(in);
  std::reverse(values.begin(), values.end());
  return rt.list(std::move(values));
}

Value slice(Runtime&, const Value& in, Args args) {
  Bound bound("slice", std::move(args), {"slices", "fill_with"}, 1);
  const Value& slices = bound[0];
  std::optional<Value> fill = bound.not_none(1);
  return lazy(in, [in, slices, fill](Runtime& rt) {
    std::vector<Value> seq = rt.to_vector(in);
    auto n = static_cast<std::int64_t>(seq.size());
    std::int64_t k = expect_integer(slices);
    if (k == 0) {
      throw Fault("integer division or modulo by zero");
    }
    rt.budget().charge_items(
        static_cast<std::size_t>(std::max<std::int64_t>(k, 0)));
    std::int64_t each = floor_divide(Value(n), Value(k)).as_int();
    std::int64_t extra = n - each * k;
    std::vector<Value> out;
    std::int64_t offset = 0;
    for (std::int64_t number = 0; number < k; ++number) {
      std::int64_t start = offset + number * each;
      if (number < extra) {
        ++offset;
      }
      std::int64_t end = offset + (number + 1) * each;
      std::vector<Value> part(seq.begin() + start, seq.begin() + end);
      if (fill && number >= extra) {
        part.push_back(*fill);
      }
      out.push_back(rt.list(std::move(part)));
    }
    return iterate_values(std::move(out));
  });
}

Value sort(Runtime& rt, const Value& in, Args args) {
  Bound bound(
      "sort", std::move(args), {"reverse", "case_sensitive", "attribute"});
  bool sensitive = bound.truth(1, false);
  std::vector<Lookup> lookups = multi_lookup(bound.get(2, Value()));
  std::vector<Keyed> items;
  for (Value& item : rt.to_vector(in)) {
    std::vector<Value> key;
    for (const Lookup& lookup : lookups) {
      Value v = lookup.get(rt, item);
      key.push_back(sensitive ? v : ignore_case(rt, v));
    }
    items.push_back({Value::list(std::move(key)), std::move(item)});
  }
  sort_keyed(rt, items, bound.truth(0, false));
  std::vector<Value> out;
  out.reserve(items.size());
  for (Keyed& item : items) {
    out.push_back(std::move(item.item));
  }
  return rt.list(std::move(out));
}

Value unique(Runtime&, const Value& in, Args args) {
  Bound bound("unique", std::move(args), {"case_sensitive", "attribute"});
  bool sensitive = bound.truth(0, false);
  Value attribute = bound.get(1, Value());
  return lazy(in, [in, sensitive, attribute](Runtime& rt) {
    std::shared_ptr<Iterator> it = rt.iterate(in);
    return iterate_with(
        [it, sensitive, lookup = Lookup(attribute), seen = Dict()](
            Runtime& run) mutable -> std::optional<Value> {
          while (auto item = it->next(run)) {
            run.budget().charge();
            Value key = lookup.get(run, *item);
            if (!sensitive) {
              key = ignore_case(run, key);
            }
            if (seen.find(key) == nullptr) {
              seen.set(key, Value());
              return item;
            }
          }
          return std::nullopt;
        });
  });
}

} // namespace qwen3_mlx::jinja::filters
