// SPDX-License-Identifier: MIT
#include "chat/json_value.h"

#include <nlohmann/json.hpp>

#include "base/utf8.h"
#include "qwen3_mlx/error.h"

namespace qwen3_mlx {

namespace {

using jinja::Dict;
using jinja::Value;

constexpr std::size_t max_depth = 100;

int hex4(std::string_view text, std::size_t at) {
  int out = 0;
  for (std::size_t n = at; n < at + 4; ++n) {
    char c = n < text.size() ? text[n] : 'x';
    char lower = static_cast<char>(c | 0x20);
    int digit = c >= '0' && c <= '9'   ? c - '0'
        : lower >= 'a' && lower <= 'f' ? lower - 'a' + 10
                                       : -1;
    if (digit < 0) {
      return -1;
    }
    out = out * 16 + digit;
  }
  return out;
}

// "\ud800" without its other half is valid JSON and no character: it becomes
// "\ufffd". In valid JSON a backslash stands only inside strings.
std::string replace_lone_surrogates(std::string text) {
  for (std::size_t n = 0; n + 1 < text.size(); ++n) {
    if (text[n] != '\\') {
      continue;
    }
    if (text[n + 1] != 'u') {
      ++n;
      continue;
    }
    int unit = hex4(text, n + 2);
    if (unit >= 0xD800 && unit <= 0xDBFF && n + 7 < text.size() &&
        text[n + 6] == '\\' && text[n + 7] == 'u') {
      int low = hex4(text, n + 8);
      if (low >= 0xDC00 && low <= 0xDFFF) {
        n += 11;
        continue;
      }
    }
    if (unit >= 0xD800 && unit <= 0xDFFF) {
      text.replace(n + 2, 4, "fffd");
    }
    n += 5;
  }
  return text;
}

// Builds values from the parser's events, without recursion.
class Builder : public nlohmann::json_sax<nlohmann::json> {
 public:
  explicit Builder(std::string_view what) : what_(what) {}

  Value take() {
    return std::move(result_);
  }

  bool null() override {
    return add(Value());
  }
  bool boolean(bool v) override {
    return add(Value(v));
  }
  bool number_integer(number_integer_t v) override {
    return add(Value(std::int64_t{v}));
  }
  bool number_unsigned(number_unsigned_t v) override {
    if (v > static_cast<std::uint64_t>(INT64_MAX)) {
      fail("the integer " + std::to_string(v) + " does not fit in 64 bits");
    }
    return add(Value(static_cast<std::int64_t>(v)));
  }
  bool number_float(number_float_t v, const string_t& text) override {
    if (text.find_first_of(".eE") == std::string::npos) {
      fail("the integer " + text + " does not fit in 64 bits");
    }
    return add(Value(v));
  }
  bool string(string_t& v) override {
    return add(Value(std::move(v)));
  }
  bool binary(binary_t&) override {
    return false;
  }
  bool start_object(std::size_t) override {
    return open(false);
  }
  bool key(string_t& v) override {
    open_.back().key = std::move(v);
    return true;
  }
  bool end_object() override {
    Value v = Value::dict(std::move(open_.back().dict));
    open_.pop_back();
    return add(std::move(v));
  }
  bool start_array(std::size_t) override {
    return open(true);
  }
  bool end_array() override {
    Value v = Value::list(std::move(open_.back().items));
    open_.pop_back();
    return add(std::move(v));
  }
  bool parse_error(
      std::size_t byte,
      const std::string&,
      const nlohmann::detail::exception& e) override {
    // The library's text quotes the input; what follows the last "; " is why.
    std::string reason = e.what();
    std::size_t at = reason.find("syntax error");
    fail(
        "no valid JSON at byte " + std::to_string(byte) +
        (at == std::string::npos ? "" : ": " + reason.substr(at)));
  }

 private:
  struct Open {
    bool is_array;
    std::string key = {};
    std::vector<Value> items = {};
    Dict dict = {};
  };

  [[noreturn]] void fail(const std::string& reason) const {
    throw InvalidArgument(what_ + ": " + reason);
  }
  bool open(bool is_array) {
    if (open_.size() >= max_depth) {
      fail("nests deeper than " + std::to_string(max_depth));
    }
    open_.push_back({is_array});
    return true;
  }
  bool add(Value v) {
    if (open_.empty()) {
      result_ = std::move(v);
    } else if (open_.back().is_array) {
      open_.back().items.push_back(std::move(v));
    } else {
      open_.back().dict.set(Value(open_.back().key), std::move(v));
    }
    return true;
  }

  std::string what_;
  std::vector<Open> open_;
  Value result_;
};

} // namespace

Value parse_json(std::string_view text, std::string_view what) {
  std::string clean = replace_lone_surrogates(replace_invalid_utf8(text));
  Builder builder(what);
  nlohmann::json::sax_parse(clean, &builder);
  return builder.take();
}

} // namespace qwen3_mlx
