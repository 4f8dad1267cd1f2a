// SPDX-License-Identifier: MIT
#include "chat/jinja/json_dump.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "base/utf8.h"

namespace qwen3_mlx::jinja {

namespace {

std::string json_double(double d) {
  if (std::isnan(d)) {
    return "NaN";
  }
  if (std::isinf(d)) {
    return d > 0 ? "Infinity" : "-Infinity";
  }
  return repr_double(d);
}

class Dumper {
 public:
  Dumper(Runtime& rt, const JsonDumpOptions& options)
      : rt_(rt), options_(options) {}

  std::string run(const Value& v) {
    write(v, 0);
    return std::move(out_);
  }

 private:
  void write(const Value& v, int level) {
    rt_.budget().charge();
    if (out_.size() > rt_.budget().limits().max_output_bytes) {
      rt_.budget().charge_bytes(out_.size());
    }
    switch (v.kind()) {
    case Value::Kind::none:
      out_ += "null";
      return;
    case Value::Kind::boolean:
      out_ += v.as_bool() ? "true" : "false";
      return;
    case Value::Kind::integer:
      out_ += std::to_string(v.as_int());
      return;
    case Value::Kind::real:
      out_ += json_double(v.as_real());
      return;
    case Value::Kind::string:
      write_string(v.as_string());
      return;
    case Value::Kind::list:
    case Value::Kind::tuple:
      write_list(v.items(), level);
      return;
    case Value::Kind::dict:
      write_dict(v.as_dict(), level);
      return;
    case Value::Kind::object:
      if (const auto tuple = v.as_object().as_tuple()) {
        write_list(tuple->items(), level);
        return;
      }
      [[fallthrough]];
    default:
      throw Fault(
          "Object of type " + v.type_name() + " is not JSON serializable");
    }
  }

  void new_line(int level) {
    if (options_.indent) {
      out_ += '\n';
      for (int n = 0; n < level; ++n) {
        out_ += *options_.indent;
      }
    }
  }

  void write_list(const std::vector<Value>& items, int level) {
    if (items.empty()) {
      out_ += "[]";
      return;
    }
    out_ += '[';
    bool first = true;
    for (const Value& item : items) {
      if (!first) {
        out_ += options_.item_separator;
      }
      first = false;
      new_line(level + 1);
      write(item, level + 1);
    }
    new_line(level);
    out_ += ']';
  }

  void write_dict(const Dict& dict, int level) {
    if (dict.size() == 0) {
      out_ += "{}";
      return;
    }
    std::vector<const Dict::Item*> items;
    for (const Dict::Item& item : dict.items()) {
      items.push_back(&item);
    }
    if (options_.sort_keys) {
      std::stable_sort(items.begin(), items.end(), [](auto* a, auto* b) {
        return less(a->first, b->first);
      });
    }
    out_ += '{';
    bool first = true;
    for (const Dict::Item* item : items) {
      if (!first) {
        out_ += options_.item_separator;
      }
      first = false;
      new_line(level + 1);
      write_key(item->first);
      out_ += options_.key_separator;
      write(item->second, level + 1);
    }
    new_line(level);
    out_ += '}';
  }

  void write_key(const Value& key) {
    switch (key.kind()) {
    case Value::Kind::string:
      write_string(key.as_string());
      return;
    case Value::Kind::none:
      out_ += "\"null\"";
      return;
    case Value::Kind::boolean:
      out_ += key.as_bool() ? "\"true\"" : "\"false\"";
      return;
    case Value::Kind::integer:
      out_ += '"' + std::to_string(key.as_int()) + '"';
      return;
    case Value::Kind::real:
      out_ += '"' + json_double(key.as_real()) + '"';
      return;
    default:
      throw Fault(
          "keys must be str, int, float, bool or None, not " + key.type_name());
    }
  }

  void write_unit(unsigned unit) {
    char buffer[16];
    std::snprintf(buffer, sizeof buffer, "\\u%04x", unit);
    out_ += buffer;
  }

  void write_string(std::string_view text) {
    rt_.budget().charge(text.size() / 128);
    out_ += '"';
    for (std::size_t n = 0; n < text.size(); ++n) {
      char c = text[n];
      switch (c) {
      case '"':
        out_ += "\\\"";
        continue;
      case '\\':
        out_ += "\\\\";
        continue;
      case '\n':
        out_ += "\\n";
        continue;
      case '\r':
        out_ += "\\r";
        continue;
      case '\t':
        out_ += "\\t";
        continue;
      case '\f':
        out_ += "\\f";
        continue;
      case '\b':
        out_ += "\\b";
        continue;
      default:
        break;
      }
      auto byte = static_cast<unsigned char>(c);
      // 0x7F stays as it is, as in Python, with ensure_ascii too.
      if (byte < 0x20) {
        write_unit(byte);
      } else if (byte >= 0x80 && options_.ensure_ascii) {
        Utf8Step step = decode_utf8(text.substr(n));
        n += step.n_bytes - 1u;
        char32_t point = step.code_point;
        if (point > 0xFFFF) {
          point -= 0x10000;
          write_unit(static_cast<unsigned>(0xD800 + (point >> 10)));
          write_unit(static_cast<unsigned>(0xDC00 + (point & 0x3FF)));
        } else {
          write_unit(static_cast<unsigned>(point));
        }
      } else {
        out_ += c;
      }
    }
    out_ += '"';
  }

  Runtime& rt_;
  const JsonDumpOptions& options_;
  std::string out_;
};

} // namespace

std::string
dump_json(Runtime& rt, const Value& v, const JsonDumpOptions& options) {
  return Dumper(rt, options).run(v);
}

} // namespace qwen3_mlx::jinja
