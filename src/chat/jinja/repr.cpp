// SPDX-License-Identifier: MIT
// Python's str() and repr().
#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>
#include <vector>

#include "base/utf8.h"
#include "chat/jinja/runtime.h"
#include "chat/jinja/text.h"

namespace qwen3_mlx::jinja {

namespace {

// A namespace may hold itself.
constexpr int max_repr_depth = 200;

void append_escape(std::string& out, char32_t c) {
  int digits = c <= 0xFF ? 2 : c <= 0xFFFF ? 4 : 8;
  out += digits == 2 ? "\\x" : digits == 4 ? "\\u" : "\\U";
  for (int shift = (digits - 1) * 4; shift >= 0; shift -= 4) {
    out += "0123456789abcdef"[(c >> shift) & 15];
  }
}

} // namespace

std::string repr_string(std::string_view text) {
  // Double quotes only where they avoid escaping.
  bool single = text.find('\'') == text.npos || text.find('"') != text.npos;
  char quote = single ? '\'' : '"';
  std::string out(1, quote);
  while (!text.empty()) {
    Utf8Step step = decode_utf8(text);
    char32_t c = step.code_point;
    if (c == static_cast<char32_t>(quote) || c == '\\') {
      out += '\\';
      out += static_cast<char>(c);
    } else if (c == '\n') {
      out += "\\n";
    } else if (c == '\r') {
      out += "\\r";
    } else if (c == '\t') {
      out += "\\t";
    } else if (is_printable(c)) {
      out += text.substr(0, step.n_bytes);
    } else {
      append_escape(out, c);
    }
    text.remove_prefix(step.n_bytes);
  }
  return out += quote;
}

std::string repr_double(double d) {
  if (std::isnan(d)) {
    return "nan";
  }
  if (std::isinf(d)) {
    return d > 0 ? "inf" : "-inf";
  }
  // Shortest digits that read back as d, as "d.ddde±xx".
  char buffer[32];
  auto end = std::to_chars(
      buffer, buffer + sizeof buffer, d, std::chars_format::scientific);
  std::string_view text(buffer, static_cast<std::size_t>(end.ptr - buffer));
  std::string out;
  if (text[0] == '-') {
    out = "-";
    text.remove_prefix(1);
  }
  std::size_t e = text.find('e');
  std::string digits(1, text[0]);
  if (e > 1) {
    digits += text.substr(2, e - 2);
  }
  int exponent = 0;
  bool negative = text[e + 1] == '-';
  std::from_chars(text.data() + e + 2, text.data() + text.size(), exponent);
  int point = (negative ? -exponent : exponent) + 1;
  auto n = static_cast<int>(digits.size());
  if (point > 16 || point < -3) {
    out += digits[0];
    if (n > 1) {
      out += '.';
      out += digits.substr(1);
    }
    int shown = std::abs(point - 1);
    out += point < 1 ? "e-" : "e+";
    return out += (shown < 10 ? "0" : "") + std::to_string(shown);
  }
  if (point <= 0) {
    return out +=
        "0." + std::string(static_cast<std::size_t>(-point), '0') + digits;
  }
  if (point >= n) {
    return out +=
        digits + std::string(static_cast<std::size_t>(point - n), '0') + ".0";
  }
  return out += digits.substr(0, static_cast<std::size_t>(point)) + "." +
      digits.substr(static_cast<std::size_t>(point));
}

namespace {

/// Marks a container as being written. One can hold itself by way of a
/// namespace, which is written anew each time.
class Entered {
 public:
  Entered(std::vector<const void*>& containers, const void* container)
      : containers_(containers),
        is_new_(
            std::find(containers.begin(), containers.end(), container) ==
            containers.end()) {
    containers.push_back(container);
  }
  ~Entered() {
    containers_.pop_back();
  }
  Entered(const Entered&) = delete;
  Entered& operator=(const Entered&) = delete;

  bool is_new() const {
    return is_new_;
  }

 private:
  std::vector<const void*>& containers_;
  bool is_new_;
};

} // namespace

void Runtime::write_repr(std::string& out, const Value& v, int depth) {
  budget_.charge();
  if (depth > max_repr_depth) {
    throw Fault("a value holds itself");
  }
  budget_.charge_bytes(
      out.size() > budget_.limits().max_output_bytes ? out.size() : 0);
  auto write_items = [&](const char* open, const char* close) {
    const Entered entered(in_repr_, &v.items());
    out += open;
    if (!entered.is_new()) {
      out += "...";
      out += close[std::strlen(close) - 1];
      return;
    }
    bool first = true;
    for (const Value& item : v.items()) {
      out += first ? "" : ", ";
      first = false;
      write_repr(out, item, depth + 1);
    }
    out += close;
  };
  switch (v.kind()) {
  case Value::Kind::none:
    out += "None";
    break;
  case Value::Kind::undefined:
    out += "Undefined";
    break;
  case Value::Kind::boolean:
    out += v.as_bool() ? "True" : "False";
    break;
  case Value::Kind::integer:
    out += std::to_string(v.as_int());
    break;
  case Value::Kind::real:
    out += repr_double(v.as_real());
    break;
  case Value::Kind::string:
    out += v.is_markup() ? "Markup(" + repr_string(v.as_string()) + ")"
                         : repr_string(v.as_string());
    break;
  case Value::Kind::list:
    write_items("[", "]");
    break;
  case Value::Kind::tuple:
    write_items("(", v.items().size() == 1 ? ",)" : ")");
    break;
  case Value::Kind::dict: {
    const Entered entered(in_repr_, &v.as_dict());
    if (!entered.is_new()) {
      out += "{...}";
      break;
    }
    out += "{";
    bool first = true;
    for (const auto& [key, value] : v.as_dict().items()) {
      out += first ? "" : ", ";
      first = false;
      write_repr(out, key, depth + 1);
      out += ": ";
      write_repr(out, value, depth + 1);
    }
    out += "}";
    break;
  }
  case Value::Kind::object: {
    Budget::Nesting nesting(budget_);
    out += v.as_object().repr(*this);
    break;
  }
  }
}

std::string Runtime::repr(const Value& v) {
  std::string out;
  write_repr(out, v, 0);
  budget_.charge_bytes(out.size());
  return out;
}

std::string Runtime::to_str(const Value& v) {
  if (v.is_string()) {
    return v.as_string();
  }
  return v.is_undefined() ? std::string() : repr(v);
}

std::string escape_html(std::string_view text) {
  std::string out;
  for (char c : text) {
    switch (c) {
    case '&':
      out += "&amp;";
      break;
    case '<':
      out += "&lt;";
      break;
    case '>':
      out += "&gt;";
      break;
    case '"':
      out += "&#34;";
      break;
    case '\'':
      out += "&#39;";
      break;
    default:
      out += c;
    }
  }
  return out;
}

} // namespace qwen3_mlx::jinja
