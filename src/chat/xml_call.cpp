// SPDX-License-Identifier: MIT
// Tool calls as Qwen3-Coder writes them:
// <function=f><parameter=p>\nvalue\n</parameter></function>.
#include <algorithm>
#include <set>

#include "chat/json_text.h"
#include "chat/json_value.h"
#include "chat/tool_call_parser.h"
#include "qwen3_mlx/error.h"

namespace qwen3_mlx {

namespace {

constexpr std::string_view function_open = "<function=";
constexpr std::string_view function_close = "</function>";
constexpr std::string_view parameter_open = "<parameter=";
constexpr std::string_view parameter_close = "</parameter>";

bool is_space(char c) {
  return c == ' ' || c == '\n' || c == '\r' || c == '\t';
}

std::string_view trimmed(std::string_view text) {
  while (!text.empty() && is_space(text.front())) {
    text.remove_prefix(1);
  }
  while (!text.empty() && is_space(text.back())) {
    text.remove_suffix(1);
  }
  return text;
}

// The inside of a JSON string.
std::string escaped(std::string_view text) {
  std::string quoted = json_string(text);
  return quoted.substr(1, quoted.size() - 2);
}

bool has_type(const std::vector<std::string>& types, std::string_view type) {
  return std::find(types.begin(), types.end(), type) != types.end();
}

// A value as JSON, by its declared types. What does not fit stays a string:
// whoever runs the tool can say so better.
std::string
typed_value(std::string text, const std::vector<std::string>& types) {
  std::string_view bare = trimmed(text);
  if (has_type(types, "string")) {
    return has_type(types, "null") && bare == "null" ? "null"
                                                     : json_string(text);
  }
  if (types.empty() || !has_type(types, "string")) {
    if (bare == "True" || bare == "False" || bare == "None") {
      bool declared = has_type(types, "boolean") || has_type(types, "null");
      if (declared) {
        return bare == "True" ? "true" : bare == "False" ? "false" : "null";
      }
    }
    try {
      return to_json(parse_json(bare, "value"));
    } catch (const InvalidArgument&) {
      return json_string(text);
    }
  }
  return json_string(text);
}

class XmlCall : public ToolCallParser {
 public:
  XmlCall(int index, const ParameterTypes& types)
      : ToolCallParser(index), types_(types) {}

  bool complete() const override {
    return at_ == At::close;
  }

  Status put(char c, std::vector<ChatEvent>& out) override {
    switch (at_) {
    case At::function:
      return function_tag(c);
    case At::function_name:
      return function_name(c, out);
    case At::between:
      return between(c, out);
    case At::parameter_name:
      return parameter_name(c, out);
    case At::value:
      return value(c, out);
    default:
      return close(c, held_, out);
    }
  }

 private:
  enum class At {
    function,
    function_name,
    between,
    parameter_name,
    value,
    close
  };

  Status function_tag(char c) {
    if (held_.empty() && is_space(c)) {
      return Status::open;
    }
    held_ += c;
    if (!function_open.starts_with(held_)) {
      return fail("expected <function=");
    }
    if (held_ == function_open) {
      held_.clear();
      at_ = At::function_name;
    }
    return Status::open;
  }

  Status function_name(char c, std::vector<ChatEvent>& out) {
    if (c == '\n' || c == '<') {
      return fail("the function's name is not closed by '>'");
    }
    if (c != '>') {
      held_ += c;
      return Status::open;
    }
    std::string name(trimmed(held_));
    if (name.empty()) {
      return fail("the function has no name");
    }
    held_.clear();
    auto it = types_.find(name);
    parameters_ = it != types_.end() ? &it->second : nullptr;
    begin(name, out);
    arguments("{", out);
    at_ = At::between;
    return Status::open;
  }

  Status between(char c, std::vector<ChatEvent>& out) {
    if (held_.empty() && is_space(c)) {
      return Status::open;
    }
    held_ += c;
    if (held_ == function_close) {
      arguments("}", out);
      held_.clear();
      at_ = At::close;
    } else if (held_ == parameter_open) {
      held_.clear();
      at_ = At::parameter_name;
    } else if (
        !function_close.starts_with(held_) &&
        !parameter_open.starts_with(held_)) {
      return fail("expected <parameter= or </function>");
    }
    return Status::open;
  }

  Status parameter_name(char c, std::vector<ChatEvent>& out) {
    if (c == '\n' || c == '<') {
      return fail("the parameter's name is not closed by '>'");
    }
    if (c != '>') {
      held_ += c;
      return Status::open;
    }
    std::string name(trimmed(held_));
    if (name.empty()) {
      return fail("a parameter has no name");
    }
    if (!seen_.insert(name).second) {
      return fail("the parameter \"" + name + "\" is given twice");
    }
    held_.clear();
    value_types_.clear();
    if (parameters_ != nullptr) {
      auto it = parameters_->find(name);
      if (it != parameters_->end()) {
        value_types_ = it->second;
      }
    }
    streams_ = value_types_ == std::vector<std::string>{"string"};
    arguments(
        (seen_.size() > 1 ? ", " : "") + json_string(name) + ": " +
            (streams_ ? "\"" : ""),
        out);
    at_first_ = true;
    at_ = At::value;
    return Status::open;
  }

  // held_ is what may belong to the end: one newline and the closing tag.
  Status value(char c, std::vector<ChatEvent>& out) {
    if (at_first_ && c == '\n') {
      at_first_ = false;
      return Status::open;
    }
    at_first_ = false;
    held_ += c;
    while (!held_.empty() && !may_end()) {
      take(held_[0], out);
      held_.erase(0, 1);
    }
    std::string_view tag = held_;
    if (!tag.empty() && tag[0] == '\n') {
      tag.remove_prefix(1);
    }
    if (tag == parameter_close) {
      arguments(
          streams_ ? "\"" : typed_value(std::move(value_), value_types_), out);
      value_.clear();
      held_.clear();
      at_ = At::between;
    }
    return Status::open;
  }

  bool may_end() const {
    std::string_view tag = held_;
    if (tag[0] == '\n') {
      tag.remove_prefix(1);
    }
    return parameter_close.starts_with(tag);
  }

  void take(char c, std::vector<ChatEvent>& out) {
    if (streams_) {
      arguments(escaped(std::string_view(&c, 1)), out);
    } else {
      value_ += c;
    }
  }

  const ParameterTypes& types_;
  const std::map<std::string, std::vector<std::string>>* parameters_ = nullptr;
  At at_ = At::function;
  std::string held_;
  std::set<std::string> seen_;
  std::vector<std::string> value_types_;
  bool streams_ = false;
  bool at_first_ = false;
  std::string value_;
};

} // namespace

std::unique_ptr<ToolCallParser>
make_xml_parser(int index, const ParameterTypes& types) {
  return std::make_unique<XmlCall>(index, types);
}

} // namespace qwen3_mlx
