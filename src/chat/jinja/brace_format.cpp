// SPDX-License-Identifier: MIT
// Python's "{:d}".format(x).
#include <algorithm>
#include <cstdio>

#include "base/utf8.h"
#include "chat/jinja/args.h"
#include "chat/jinja/printf.h"
#include "chat/jinja/text.h"

namespace qwen3_mlx::jinja {

namespace {

// Fields of str.format.
class BraceFormat {
 public:
  BraceFormat(Runtime& rt, const Args& args) : rt_(rt), args_(args) {}

  std::string run(std::string_view text, int depth) {
    if (depth > 2) {
      throw Fault("Max string recursion exceeded");
    }
    std::string out;
    std::size_t n = 0;
    while (n < text.size()) {
      char c = text[n++];
      if (c != '{' && c != '}') {
        out += c;
        continue;
      }
      if (n < text.size() && text[n] == c) {
        out += c;
        ++n;
        continue;
      }
      if (c == '}') {
        throw Fault("Single '}' encountered in format string");
      }
      std::size_t start = n;
      int open = 1;
      while (n < text.size() && open > 0) {
        open += text[n] == '{' ? 1 : text[n] == '}' ? -1 : 0;
        ++n;
      }
      if (open > 0) {
        throw Fault(
            start == text.size() ? "Single '{' encountered in format string"
                                 : "expected '}' before end of string");
      }
      out += field(text.substr(start, n - 1 - start), depth);
      rt_.budget().charge();
      rt_.budget().charge_bytes(out.size() > 4096 ? out.size() : 0);
    }
    return out;
  }

 private:
  std::string field(std::string_view text, int depth) {
    std::size_t end = 0;
    int brackets = 0;
    while (end < text.size() &&
           (brackets > 0 || (text[end] != '!' && text[end] != ':'))) {
      brackets += text[end] == '[' ? 1 : text[end] == ']' ? -1 : 0;
      ++end;
    }
    Value v = lookup(text.substr(0, end));
    std::string_view rest = text.substr(end);
    if (!rest.empty() && rest[0] == '!') {
      if (rest.size() < 2) {
        throw Fault("end of string while looking for conversion specifier");
      }
      switch (rest[1]) {
      case 's':
        v = rt_.str(rt_.to_str(v));
        break;
      case 'r':
        v = rt_.str(rt_.repr(v));
        break;
      case 'a':
        v = rt_.str(ascii_repr(rt_, v));
        break;
      default:
        throw Fault("Unknown conversion specifier");
      }
      rest.remove_prefix(2);
      if (!rest.empty() && rest[0] != ':') {
        throw Fault("expected ':' after conversion specifier");
      }
    }
    std::string spec =
        rest.empty() ? std::string() : run(rest.substr(1), depth + 1);
    return format_value(rt_, v, spec);
  }

  Value lookup(std::string_view path) {
    std::size_t end = path.find_first_of(".[");
    std::string_view first = path.substr(0, end);
    Value v = argument(first);
    while (end < path.size()) {
      if (path[end] == '.') {
        std::size_t next = path.find_first_of(".[", end + 1);
        std::string_view name = path.substr(
            end + 1, next == path.npos ? path.npos : next - end - 1);
        if (name.empty()) {
          throw Fault("Empty attribute in format string");
        }
        v = rt_.get_attr(v, name);
        end = next == path.npos ? path.size() : next;
      } else {
        std::size_t close = path.find(']', end);
        if (close == path.npos) {
          throw Fault("Missing ']' in format string");
        }
        std::string_view key = path.substr(end + 1, close - end - 1);
        if (key.empty()) {
          throw Fault("Empty attribute in format string");
        }
        v = rt_.get_item(v, is_number(key) ? Value(number(key)) : Value(key));
        end = close + 1;
        if (end < path.size() && path[end] != '.' && path[end] != '[') {
          throw Fault(
              "Only '.' or '[' may follow ']' in format field specifier");
        }
      }
    }
    return v;
  }

  static bool is_number(std::string_view text) {
    return !text.empty() && text.size() < 10 &&
        std::all_of(text.begin(), text.end(), [](char c) {
          return c >= '0' && c <= '9';
        });
  }
  static std::int64_t number(std::string_view text) {
    std::int64_t n = 0;
    for (char c : text) {
      n = n * 10 + (c - '0');
    }
    return n;
  }

  Value argument(std::string_view name) {
    if (name.empty() || is_number(name)) {
      bool automatic = name.empty();
      if (mode_ != Mode::none && (mode_ == Mode::automatic) != automatic) {
        throw Fault(
            "cannot switch between manual field specification and automatic "
            "field numbering");
      }
      mode_ = automatic ? Mode::automatic : Mode::manual;
      auto n = static_cast<std::size_t>(
          automatic ? static_cast<std::int64_t>(next_++) : number(name));
      if (n >= args_.positional.size()) {
        throw Fault(
            "Replacement index " + std::to_string(n) +
            " out of range for positional args tuple");
      }
      return args_.positional[n];
    }
    for (const auto& [key, value] : args_.keyword) {
      if (key == name) {
        return value;
      }
    }
    throw Fault("no argument '" + std::string(name) + "' for the format");
  }

  enum class Mode { none, automatic, manual };
  Runtime& rt_;
  const Args& args_;
  Mode mode_ = Mode::none;
  std::size_t next_ = 0;
};

} // namespace

std::string ascii_repr(Runtime& rt, const Value& v) {
  std::string out;
  for (char32_t c : to_code_points(rt.repr(v))) {
    if (c < 0x80) {
      out += static_cast<char>(c);
      continue;
    }
    char buffer[16];
    std::snprintf(
        buffer,
        sizeof buffer,
        c <= 0xFF         ? "\\x%02x"
            : c <= 0xFFFF ? "\\u%04x"
                          : "\\U%08x",
        static_cast<unsigned>(c));
    out += buffer;
  }
  return out;
}

Value brace_format(Runtime& rt, std::string_view format, const Args& args) {
  return rt.str(BraceFormat(rt, args).run(format, 0));
}

} // namespace qwen3_mlx::jinja
