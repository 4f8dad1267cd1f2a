// SPDX-License-Identifier: MIT
// Filters on texts.
#include <algorithm>
#include <array>
#include <cmath>

#include "base/utf8.h"
#include "chat/jinja/args.h"
#include "chat/jinja/filters.h"
#include "chat/jinja/format_numbers.h"
#include "chat/jinja/printf.h"
#include "chat/jinja/string_literal.h"
#include "chat/jinja/text.h"

namespace qwen3_mlx::jinja::filters {

namespace {

// markupsafe.soft_str: a str stays what it is, Markup or not.
Value soft_str(Runtime& rt, const Value& v) {
  return v.is_string() ? v : rt.str(rt.to_str(v));
}

Value call_method(
    Runtime& rt,
    const Value& self,
    std::string_view name,
    std::vector<Value> args) {
  return rt.call(*method(self, name), Args{std::move(args), {}});
}

// urllib.parse.quote
std::string quote(std::string_view text, std::string_view safe, bool query) {
  std::string out;
  for (char c : text) {
    auto byte = static_cast<unsigned char>(c);
    bool plain = (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') ||
        (c >= 'a' && c <= 'z') || c == '_' || c == '.' || c == '-' ||
        c == '~' || safe.find(c) != safe.npos;
    if (plain) {
      out += c;
    } else if (query && c == ' ') {
      out += '+';
    } else {
      out += '%';
      out += "0123456789ABCDEF"[byte >> 4];
      out += "0123456789ABCDEF"[byte & 15];
    }
  }
  return out;
}

} // namespace

Value upper(Runtime& rt, const Value& in, Args args) {
  expect_no_arguments("upper", args);
  return call_method(rt, soft_str(rt, in), "upper", {});
}

Value lower(Runtime& rt, const Value& in, Args args) {
  expect_no_arguments("lower", args);
  return call_method(rt, soft_str(rt, in), "lower", {});
}

Value capitalize(Runtime& rt, const Value& in, Args args) {
  expect_no_arguments("capitalize", args);
  return call_method(rt, soft_str(rt, in), "capitalize", {});
}

Value title(Runtime& rt, const Value& in, Args args) {
  expect_no_arguments("title", args);
  // Words begin after white space, hyphens and opening brackets.
  auto begins_word = [](char32_t c) {
    return c == '-' || c == '(' || c == '{' || c == '[' || c == '<' ||
        is_space(c);
  };
  std::u32string text = to_code_points(rt.to_str(in));
  rt.budget().charge(text.size() / 16);
  std::string out;
  std::size_t n = 0;
  while (n < text.size()) {
    std::size_t end = n;
    bool separator = begins_word(text[n]);
    while (end < text.size() && begins_word(text[end]) == separator) {
      ++end;
    }
    if (separator) {
      out += to_utf8(text.substr(n, end - n));
    } else {
      out += jinja::upper(to_utf8(text[n]));
      out += jinja::lower(to_utf8(text.substr(n + 1, end - n - 1)));
    }
    n = end;
  }
  return rt.str(std::move(out));
}

Value trim(Runtime& rt, const Value& in, Args args) {
  Bound bound("trim", std::move(args), {"chars"});
  return call_method(rt, soft_str(rt, in), "strip", {bound.get(0, Value())});
}

Value replace(Runtime& rt, const Value& in, Args args) {
  Bound bound("replace", std::move(args), {"old", "new", "count"}, 2);
  std::optional<Value> count = bound.not_none(2);
  return call_method(
      rt,
      rt.str(rt.to_str(in)),
      "replace",
      {rt.str(rt.to_str(bound[0])),
       rt.str(rt.to_str(bound[1])),
       count ? *count : Value(-1)});
}

Value center(Runtime& rt, const Value& in, Args args) {
  Bound bound("center", std::move(args), {"width"});
  return call_method(rt, soft_str(rt, in), "center", {bound.get(0, Value(80))});
}

Value indent(Runtime& rt, const Value& in, Args args) {
  Bound bound("indent", std::move(args), {"width", "first", "blank"});
  std::string indention;
  if (bound.has(0) && bound[0].is_string()) {
    indention = bound[0].as_string();
  } else {
    Value spaces = multiply(rt, Value(" "), bound.get(0, Value(4)));
    indention = spaces.as_string();
  }
  if (!in.is_string()) {
    if (in.is_undefined()) {
      fail_undefined(in);
    }
    throw Fault("indent needs a str, not '" + in.type_name() + "'");
  }
  std::string text = in.as_string() + "\n";
  if (in.is_markup()) {
    indention = escape_html(indention);
  }
  bool blank = bound.truth(2, false);
  std::string out;
  bool first = true;
  for (std::string_view line : split_lines(text, false)) {
    if (!first) {
      out += '\n';
      if (blank || !line.empty()) {
        out += indention;
      }
    }
    first = false;
    out += line;
    rt.budget().charge_bytes(indention.size());
    rt.budget().charge_bytes(out.size() > (1u << 20) ? out.size() : 0);
  }
  if (bound.truth(1, false)) {
    out = indention + out;
  }
  return rt.str(std::move(out), in.is_markup());
}

Value truncate(Runtime& rt, const Value& in, Args args) {
  Bound bound(
      "truncate", std::move(args), {"length", "killwords", "end", "leeway"});
  std::int64_t wanted = bound.integer(0, 255);
  Value end = bound.get(2, Value("..."));
  std::int64_t end_length = static_cast<std::int64_t>(rt.length(end));
  std::optional<Value> leeway_arg = bound.not_none(3);
  std::int64_t leeway = leeway_arg ? expect_integer(*leeway_arg) : 5;
  if (wanted < end_length) {
    throw Fault(
        "expected length >= " + std::to_string(end_length) + ", got " +
        std::to_string(wanted));
  }
  if (leeway < 0) {
    throw Fault("expected leeway >= 0, got " + std::to_string(leeway));
  }
  if (static_cast<std::int64_t>(rt.length(in)) <= wanted + leeway) {
    return in;
  }
  Value cut = rt.get_slice(in, Value(), Value(wanted - end_length), Value());
  if (!bound.truth(1, false)) {
    Value words = call_method(rt, cut, "rsplit", {Value(" "), Value(1)});
    cut = words.items()[0];
  }
  return add(rt, cut, end);
}

Value word_count(Runtime& rt, const Value& in, Args args) {
  expect_no_arguments("wordcount", args);
  std::int64_t n = 0;
  bool in_word = false;
  std::string text = rt.to_str(in);
  rt.budget().charge(text.size() / 32);
  for (char32_t c : to_code_points(text)) {
    bool word = c == '_' || is_alnum(c);
    n += word && !in_word ? 1 : 0;
    in_word = word;
  }
  return n;
}

Value format(Runtime& rt, const Value& in, Args args) {
  if (!args.positional.empty() && !args.keyword.empty()) {
    throw Fault(
        "can't handle positional and keyword arguments at the same time");
  }
  Value text = soft_str(rt, in);
  if (args.keyword.empty()) {
    return printf_format(rt, text, rt.tuple(std::move(args.positional)));
  }
  Dict values;
  for (auto& [key, value] : args.keyword) {
    values.set(Value(key), std::move(value));
  }
  return printf_format(rt, text, Value::dict(std::move(values)));
}

Value string(Runtime& rt, const Value& in, Args args) {
  expect_no_arguments("string", args);
  return soft_str(rt, in);
}

Value safe(Runtime& rt, const Value& in, Args args) {
  expect_no_arguments("safe", args);
  return rt.str(rt.to_str(in), true);
}

Value escape(Runtime& rt, const Value& in, Args args) {
  expect_no_arguments("escape", args);
  return in.is_markup() ? in : rt.str(escape_html(rt.to_str(in)), true);
}

Value force_escape(Runtime& rt, const Value& in, Args args) {
  expect_no_arguments("forceescape", args);
  return rt.str(escape_html(rt.to_str(in)), true);
}

Value strip_tags(Runtime& rt, const Value& in, Args args) {
  expect_no_arguments("striptags", args);
  std::string text = rt.to_str(in);
  auto remove = [&text](std::string_view open, std::string_view close) {
    std::size_t from = 0;
    std::string kept;
    while (true) {
      std::size_t start = text.find(open, from);
      std::size_t end =
          start == text.npos ? text.npos : text.find(close, start);
      if (end == text.npos) {
        break;
      }
      kept += text.substr(from, start - from);
      from = end + close.size();
    }
    text = kept + text.substr(from);
  };
  remove("<!--", "-->");
  remove("<", ">");
  std::string out;
  for (std::string_view word : split(text, std::nullopt, -1, false)) {
    out += (out.empty() ? "" : " ") + std::string(word);
  }
  static constexpr std::array<std::pair<std::string_view, std::string_view>, 6>
      entities = {
          {{"&lt;", "<"},
           {"&gt;", ">"},
           {"&quot;", "\""},
           {"&#34;", "\""},
           {"&#39;", "'"},
           {"&amp;", "&"}}};
  for (const auto& [entity, text_of] : entities) {
    out = jinja::replace(out, entity, text_of, -1);
  }
  return rt.str(std::move(out));
}

Value url_encode(Runtime& rt, const Value& in, Args args) {
  expect_no_arguments("urlencode", args);
  bool one = in.is_string() || in.is_number() || in.is_none() ||
      (in.is_object() && in.as_object().iterate() == nullptr);
  if (one) {
    return rt.str(quote(rt.to_str(in), "/", false));
  }
  std::string out;
  auto add_pair = [&](const Value& key, const Value& value) {
    out += (out.empty() ? "" : "&") + quote(rt.to_str(key), "", true) + "=" +
        quote(rt.to_str(value), "", true);
  };
  if (in.is_dict()) {
    for (const auto& [key, value] : in.as_dict().items()) {
      add_pair(key, value);
    }
    return rt.str(std::move(out));
  }
  for (const Value& pair : rt.to_vector(in)) {
    std::vector<Value> parts = rt.to_vector(pair);
    if (parts.size() != 2) {
      throw Fault("urlencode needs pairs of key and value");
    }
    add_pair(parts[0], parts[1]);
  }
  return rt.str(std::move(out));
}

Value xml_attributes(Runtime& rt, const Value& in, Args args) {
  Bound bound("xmlattr", std::move(args), {"autospace"});
  if (in.is_undefined()) {
    fail_undefined(in);
  }
  if (!in.is_dict()) {
    throw Fault("xmlattr needs a dict");
  }
  std::string out;
  for (const auto& [key, value] : in.as_dict().items()) {
    if (value.is_none() || value.is_undefined()) {
      continue;
    }
    if (!key.is_string()) {
      throw Fault("expected string or bytes-like object as attribute name");
    }
    if (key.as_string().find_first_of(" \t\n\r\f\v/>=") != std::string::npos) {
      throw Fault("Invalid character in attribute name: " + rt.repr(key));
    }
    out += (out.empty() ? "" : " ") + escape_html(key.as_string()) + "=\"" +
        (value.is_markup() ? value.as_string()
                           : escape_html(rt.to_str(value))) +
        "\"";
  }
  if (bound.truth(0, true) && !out.empty()) {
    out.insert(0, " ");
  }
  return rt.str(std::move(out));
}

Value file_size(Runtime& rt, const Value& in, Args args) {
  Bound bound("filesizeformat", std::move(args), {"binary"});
  double n_bytes = 0;
  if (in.is_number()) {
    n_bytes = in.as_real();
  } else if (in.is_undefined()) {
    fail_undefined(in);
  } else {
    std::optional<double> parsed = in.is_string()
        ? parse_double(rstrip_space(lstrip_space(in.as_string())))
        : std::nullopt;
    if (!parsed) {
      throw Fault("could not convert " + rt.repr(in) + " to float");
    }
    n_bytes = *parsed;
  }
  bool binary = bound.truth(0, false);
  double base = binary ? 1024 : 1000;
  if (n_bytes == 1) {
    return "1 Byte";
  }
  if (n_bytes < base) {
    if (!std::isfinite(n_bytes)) {
      throw Fault("cannot convert float to integer");
    }
    return rt.str(format_double(std::trunc(n_bytes) + 0.0, 'f', 0) + " Bytes");
  }
  std::string_view letters = "kMGTPEZY";
  double unit = base * base;
  std::size_t n = 0;
  while (n + 1 < letters.size() && !(n_bytes < unit)) {
    unit *= base;
    ++n;
  }
  std::string prefix(1, binary && n == 0 ? 'K' : letters[n]);
  return rt.str(
      format_double(base * n_bytes / unit, 'f', 1) + " " + prefix +
      (binary ? "iB" : "B"));
}

} // namespace qwen3_mlx::jinja::filters
