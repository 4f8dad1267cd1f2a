// SPDX-License-Identifier: MIT
#include "chat/jinja/string_methods.h"

#include <algorithm>
#include <array>

#include "chat/jinja/args.h"
#include "chat/jinja/printf.h"
#include "chat/jinja/text.h"

namespace qwen3_mlx::jinja {

namespace {

using Method = Value (*)(Runtime&, const Value& self, Args args);

// A text made from `self`: still Markup when that was.
Value same(Runtime& rt, const Value& self, std::string text) {
  return rt.str(std::move(text), self.is_markup());
}
Value same(Runtime& rt, const Value& self, std::string_view text) {
  return same(rt, self, std::string(text));
}

// An argument that Markup would escape before it uses it.
std::string escaped(const Value& self, const Value& v) {
  return self.is_markup() && !v.is_markup() ? escape_html(v.as_string())
                                            : v.as_string();
}

void no_keywords(std::string_view name, const Args& args) {
  if (!args.keyword.empty()) {
    throw Fault("str." + std::string(name) + "() takes no keyword arguments");
  }
}

template <std::string (*map)(std::string_view)>
Value mapped(Runtime& rt, const Value& self, Args args) {
  expect_no_arguments("str method", args);
  rt.budget().charge(self.as_string().size() / 32);
  return same(rt, self, map(self.as_string()));
}

// str.isalpha and its kind: every character, and at least one.
template <bool (*is)(char32_t)>
Value all_are(Runtime& rt, const Value& self, Args args) {
  expect_no_arguments("str method", args);
  rt.budget().charge(self.as_string().size() / 32);
  std::u32string text = to_code_points(self.as_string());
  return !text.empty() && std::all_of(text.begin(), text.end(), is);
}

// str.isupper and islower: no character of the other case, one of this.
template <bool upper_case>
Value is_cased_as(Runtime& rt, const Value& self, Args args) {
  expect_no_arguments("str method", args);
  rt.budget().charge(self.as_string().size() / 32);
  bool any = false;
  for (char32_t c : to_code_points(self.as_string())) {
    if (is_title(c) || (upper_case ? is_lower(c) : is_upper(c))) {
      return false;
    }
    any = any || (upper_case ? is_upper(c) : is_lower(c));
  }
  return any;
}

Value is_title_case(Runtime&, const Value& self, Args args) {
  expect_no_arguments("istitle", args);
  bool cased = false;
  bool in_word = false;
  for (char32_t c : to_code_points(self.as_string())) {
    if (is_upper(c) || is_title(c)) {
      if (in_word) {
        return false;
      }
      in_word = cased = true;
    } else if (is_lower(c)) {
      if (!in_word) {
        return false;
      }
      cased = true;
    } else {
      in_word = false;
    }
  }
  return cased;
}

Value is_identifier(Runtime&, const Value& self, Args args) {
  expect_no_arguments("isidentifier", args);
  std::u32string text = to_code_points(self.as_string());
  return !text.empty() && !is_decimal(text[0]) &&
      std::all_of(text.begin(), text.end(), is_identifier_part);
}

Value is_ascii_text(Runtime&, const Value& self, Args args) {
  expect_no_arguments("isascii", args);
  return is_ascii(self.as_string());
}

Value is_printable_text(Runtime&, const Value& self, Args args) {
  expect_no_arguments("isprintable", args);
  std::u32string text = to_code_points(self.as_string());
  return std::all_of(text.begin(), text.end(), is_printable);
}

template <bool left, bool right>
Value stripped(Runtime& rt, const Value& self, Args args) {
  no_keywords("strip", args);
  Bound bound("strip", std::move(args), {"chars"});
  auto chars = bound.not_none(0);
  if (chars && !chars->is_string()) {
    throw Fault("strip arg must be None or str");
  }
  rt.budget().charge(chars ? chars->as_string().size() / 16 : 0);
  return same(
      rt,
      self,
      strip(
          self.as_string(),
          chars ? std::optional<std::string_view>(chars->as_string())
                : std::nullopt,
          left,
          right));
}

template <bool from_right>
Value split_method(Runtime& rt, const Value& self, Args args) {
  Bound bound("split", std::move(args), {"sep", "maxsplit"});
  std::optional<Value> separator = bound.not_none(0);
  if (separator && !separator->is_string()) {
    throw Fault("must be str or None, not " + separator->type_name());
  }
  if (separator && separator->as_string().empty()) {
    throw Fault("empty separator");
  }
  rt.budget().charge(self.as_string().size() / 64);
  std::vector<Value> out;
  for (std::string_view part : split(
           self.as_string(),
           separator ? std::optional<std::string_view>(separator->as_string())
                     : std::nullopt,
           bound.integer(1, -1),
           from_right)) {
    out.push_back(same(rt, self, part));
  }
  return rt.list(std::move(out));
}

Value split_lines_method(Runtime& rt, const Value& self, Args args) {
  Bound bound("splitlines", std::move(args), {"keepends"});
  std::vector<Value> out;
  for (std::string_view line :
       split_lines(self.as_string(), bound.truth(0, false))) {
    out.push_back(same(rt, self, line));
  }
  return rt.list(std::move(out));
}

template <bool from_right>
Value partition(Runtime& rt, const Value& self, Args args) {
  no_keywords("partition", args);
  Bound bound("partition", std::move(args), {"sep"}, 1);
  std::string separator(bound.text(0));
  if (separator.empty()) {
    throw Fault("empty separator");
  }
  std::string_view text = self.as_string();
  std::size_t at = from_right ? text.rfind(separator) : text.find(separator);
  if (at == text.npos) {
    Value none = same(rt, self, std::string());
    return from_right ? rt.tuple({none, none, self})
                      : rt.tuple({self, none, none});
  }
  return rt.tuple(
      {same(rt, self, text.substr(0, at)),
       same(rt, self, separator),
       same(rt, self, text.substr(at + separator.size()))});
}

Value replace_method(Runtime& rt, const Value& self, Args args) {
  no_keywords("replace", args);
  Bound bound("replace", std::move(args), {"old", "new", "count"}, 2);
  bound.text(0);
  bound.text(1);
  std::string from = escaped(self, bound[0]);
  std::string to = escaped(self, bound[1]);
  rt.budget().charge_bytes(
      (self.as_string().size() + 1) * (from.empty() ? to.size() + 1 : 1));
  std::size_t n_found = 0;
  if (!from.empty() && to.size() > from.size()) {
    std::string_view text = self.as_string();
    for (std::size_t at = text.find(from); at != text.npos;
         at = text.find(from, at + from.size())) {
      ++n_found;
    }
    rt.budget().charge_bytes(n_found * to.size());
  }
  return same(
      rt, self, replace(self.as_string(), from, to, bound.integer(2, -1)));
}

// Python's start and end arguments of find, count, startswith: the part of
// the text they leave, and where it starts in characters. nullopt: start is
// past the end, where not even "" is found.
struct Window {
  std::string text;
  std::int64_t start;
};

std::optional<Window> window(const Value& self, const Bound& bound) {
  auto has = [&](std::size_t n) { return bound.not_none(n).has_value(); };
  if (!has(1) && !has(2)) {
    return Window{self.as_string(), 0};
  }
  std::u32string text = to_code_points(self.as_string());
  auto n = static_cast<std::int64_t>(text.size());
  auto resolve = [&](std::size_t k, std::int64_t otherwise) {
    std::int64_t v = has(k) ? expect_integer(*bound.not_none(k)) : otherwise;
    return v < 0 ? std::max<std::int64_t>(v + n, 0) : v;
  };
  std::int64_t start = resolve(1, 0);
  std::int64_t end = std::min(resolve(2, n), n);
  if (start > end) {
    return std::nullopt;
  }
  return Window{
      to_utf8(text.substr(
          static_cast<std::size_t>(start),
          static_cast<std::size_t>(end - start))),
      start};
}

template <bool from_right, bool must_exist>
Value find_method(Runtime& rt, const Value& self, Args args) {
  no_keywords("find", args);
  Bound bound("find", std::move(args), {"sub", "start", "end"}, 1);
  std::string_view wanted = bound.text(0);
  rt.budget().charge(self.as_string().size() / 64);
  if (auto in = window(self, bound)) {
    std::size_t at =
        from_right ? in->text.rfind(wanted) : in->text.find(wanted);
    if (at != std::string::npos) {
      return in->start +
          static_cast<std::int64_t>(
                 length(std::string_view(in->text).substr(0, at)));
    }
  }
  if (must_exist) {
    throw Fault("substring not found");
  }
  return -1;
}

Value count_method(Runtime& rt, const Value& self, Args args) {
  no_keywords("count", args);
  Bound bound("count", std::move(args), {"sub", "start", "end"}, 1);
  std::string_view wanted = bound.text(0);
  rt.budget().charge(self.as_string().size() / 64);
  auto in = window(self, bound);
  if (!in) {
    return 0;
  }
  if (wanted.empty()) {
    return static_cast<std::int64_t>(length(in->text)) + 1;
  }
  std::int64_t n = 0;
  for (std::size_t at = in->text.find(wanted); at != std::string::npos;
       at = in->text.find(wanted, at + wanted.size())) {
    ++n;
  }
  return n;
}

template <bool at_end>
Value starts_with(Runtime& rt, const Value& self, Args args) {
  no_keywords(at_end ? "endswith" : "startswith", args);
  Bound bound("startswith", std::move(args), {"prefix", "start", "end"}, 1);
  std::vector<Value> choices = {bound[0]};
  if (bound[0].is_tuple()) {
    choices = bound[0].items();
  }
  auto in = window(self, bound);
  for (const Value& choice : choices) {
    rt.budget().charge();
    if (!choice.is_string()) {
      throw Fault(
          std::string(at_end ? "endswith" : "startswith") +
          " first arg must be str or a tuple of str, not " +
          choice.type_name());
    }
    if (in &&
        (at_end ? in->text.ends_with(choice.as_string())
                : in->text.starts_with(choice.as_string()))) {
      return true;
    }
  }
  return false;
}

template <bool suffix>
Value remove_affix(Runtime& rt, const Value& self, Args args) {
  no_keywords("removeprefix", args);
  Bound bound("removeprefix", std::move(args), {"prefix"}, 1);
  std::string_view affix = bound.text(0);
  std::string_view text = self.as_string();
  if (suffix && !affix.empty() && text.ends_with(affix)) {
    text.remove_suffix(affix.size());
  } else if (!suffix && text.starts_with(affix)) {
    text.remove_prefix(affix.size());
  }
  return same(rt, self, text);
}

Value join_method(Runtime& rt, const Value& self, Args args) {
  no_keywords("join", args);
  Bound bound("join", std::move(args), {"iterable"}, 1);
  std::string out;
  std::size_t n = 0;
  if (bound[0].is_undefined()) {
    return same(rt, self, std::string());
  }
  for (const Value& item : rt.to_vector(bound[0])) {
    if (!item.is_string()) {
      throw Fault(
          "sequence item " + std::to_string(n) + ": expected str instance, " +
          item.type_name() + " found");
    }
    out += n++ > 0 ? self.as_string() : "";
    out += escaped(self, item);
    rt.budget().charge_bytes(out.size() > 4096 ? out.size() : 0);
  }
  return same(rt, self, std::move(out));
}

// ljust, rjust and center, by where the text goes.
enum class Justify { left, right, center };

template <Justify justify>
Value justified(Runtime& rt, const Value& self, Args args) {
  no_keywords("ljust", args);
  Bound bound("ljust", std::move(args), {"width", "fillchar"}, 1);
  std::string fill(bound.has(1) ? bound.text(1) : " ");
  if (length(fill) != 1) {
    throw Fault("The fill character must be exactly one character long");
  }
  auto n = static_cast<std::int64_t>(length(self.as_string()));
  std::int64_t missing =
      std::max<std::int64_t>(expect_integer(bound[0]) - n, 0);
  rt.budget().charge_bytes(
      static_cast<std::size_t>(std::min<std::int64_t>(missing, 1 << 30)));
  std::int64_t left = 0;
  if (justify == Justify::right) {
    left = missing;
  } else if (justify == Justify::center) {
    // CPython puts the odd one left only for odd widths.
    left = missing / 2 + (missing & (missing + n) & 1);
  }
  std::string out;
  for (std::int64_t k = 0; k < left; ++k) {
    out += fill;
  }
  out += self.as_string();
  for (std::int64_t k = left; k < missing; ++k) {
    out += fill;
  }
  return same(rt, self, std::move(out));
}

Value zero_filled(Runtime& rt, const Value& self, Args args) {
  no_keywords("zfill", args);
  Bound bound("zfill", std::move(args), {"width"}, 1);
  std::string text = self.as_string();
  std::int64_t missing =
      expect_integer(bound[0]) - static_cast<std::int64_t>(length(text));
  if (missing > 0) {
    rt.budget().charge_bytes(
        static_cast<std::size_t>(std::min<std::int64_t>(missing, 1 << 30)));
    bool sign = !text.empty() && (text[0] == '+' || text[0] == '-');
    text.insert(sign ? 1 : 0, static_cast<std::size_t>(missing), '0');
  }
  return same(rt, self, std::move(text));
}

Value expand_tabs(Runtime& rt, const Value& self, Args args) {
  Bound bound("expandtabs", std::move(args), {"tabsize"});
  std::int64_t size = std::min<std::int64_t>(bound.integer(0, 8), 1 << 16);
  std::u32string out;
  std::int64_t column = 0;
  for (char32_t c : to_code_points(self.as_string())) {
    if (c == '\t') {
      std::int64_t n = size > 0 ? size - column % size : 0;
      rt.budget().charge_bytes(out.size() + static_cast<std::size_t>(n));
      out.append(static_cast<std::size_t>(n), U' ');
      column += n;
    } else {
      out += c;
      column = c == '\n' || c == '\r' ? 0 : column + 1;
    }
  }
  return same(rt, self, to_utf8(out));
}

Value format_method(Runtime& rt, const Value& self, Args args) {
  return brace_format(rt, self.as_string(), args);
}

Value format_map_method(Runtime& rt, const Value& self, Args args) {
  no_keywords("format_map", args);
  Bound bound("format_map", std::move(args), {"mapping"}, 1);
  if (!bound[0].is_dict()) {
    throw Fault("format_map() needs a mapping");
  }
  Args named;
  for (const auto& [key, value] : bound[0].as_dict().items()) {
    if (key.is_string()) {
      named.keyword.emplace_back(key.as_string(), value);
    }
  }
  return brace_format(rt, self.as_string(), named);
}

struct Entry {
  std::string_view name;
  Method method;
};

constexpr std::array<Entry, 44> methods = {{
    {"capitalize", mapped<capitalize>},
    {"casefold", mapped<casefold>},
    {"center", justified<Justify::center>},
    {"count", count_method},
    {"endswith", starts_with<true>},
    {"expandtabs", expand_tabs},
    {"find", find_method<false, false>},
    {"format", format_method},
    {"format_map", format_map_method},
    {"index", find_method<false, true>},
    {"isalnum", all_are<is_alnum>},
    {"isalpha", all_are<is_alpha>},
    {"isascii", is_ascii_text},
    {"isdecimal", all_are<is_decimal>},
    {"isdigit", all_are<is_digit_char>},
    {"isidentifier", is_identifier},
    {"islower", is_cased_as<false>},
    {"isnumeric", all_are<is_numeric>},
    {"isprintable", is_printable_text},
    {"isspace", all_are<is_space>},
    {"istitle", is_title_case},
    {"isupper", is_cased_as<true>},
    {"join", join_method},
    {"ljust", justified<Justify::left>},
    {"lower", mapped<lower>},
    {"lstrip", stripped<true, false>},
    {"partition", partition<false>},
    {"removeprefix", remove_affix<false>},
    {"removesuffix", remove_affix<true>},
    {"replace", replace_method},
    {"rfind", find_method<true, false>},
    {"rindex", find_method<true, true>},
    {"rjust", justified<Justify::right>},
    {"rpartition", partition<true>},
    {"rsplit", split_method<true>},
    {"rstrip", stripped<false, true>},
    {"split", split_method<false>},
    {"splitlines", split_lines_method},
    {"startswith", starts_with<false>},
    {"strip", stripped<true, true>},
    {"swapcase", mapped<swapcase>},
    {"title", mapped<title>},
    {"upper", mapped<upper>},
    {"zfill", zero_filled},
}};

} // namespace

std::optional<Value> string_method(const Value& self, std::string_view name) {
  auto it = std::lower_bound(
      methods.begin(), methods.end(), name, [](const Entry& e, auto key) {
        return e.name < key;
      });
  if (it == methods.end() || it->name != name) {
    return std::nullopt;
  }
  return make_function(
      std::string(name), [self, method = it->method](Runtime& rt, Args args) {
        return method(rt, self, std::move(args));
      });
}

} // namespace qwen3_mlx::jinja
