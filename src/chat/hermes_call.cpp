// SPDX-License-Identifier: MIT
// Tool calls as JSON: {"name": "f", "arguments": {...}}.
#include <optional>

#include "chat/json_scanner.h"
#include "chat/json_value.h"
#include "chat/tool_call_parser.h"
#include "qwen3_mlx/error.h"

namespace qwen3_mlx {

namespace {

bool is_space(char c) {
  return c == ' ' || c == '\n' || c == '\r' || c == '\t';
}

class HermesCall : public ToolCallParser {
 public:
  explicit HermesCall(int index) : ToolCallParser(index) {}

  bool complete() const override {
    return at_ == At::close;
  }

  Status put(char c, std::vector<ChatEvent>& out) override {
    if (at_ == At::close) {
      return close(c, held_, out);
    }
    if (at_ == At::key || at_ == At::in_value) {
      return scan(c, out);
    }
    if (is_space(c)) {
      return Status::open;
    }
    switch (at_) {
    case At::object:
      at_ = At::key_or_end;
      return c == '{' ? Status::open : fail("expected a JSON object");
    case At::key_or_end:
      if (c == '}') {
        return finish_object(out);
      }
      [[fallthrough]];
    case At::before_key:
      if (c != '"') {
        return fail("expected a key in quotes");
      }
      at_ = At::key;
      scanner_ = JsonScanner();
      value_.clear();
      return scan(c, out);
    case At::colon:
      at_ = At::value;
      return c == ':' ? Status::open : fail("expected ':' after a key");
    case At::value:
      return start_value(c, out);
    default:
      return after_value(c, out);
    }
  }

 private:
  enum class At {
    object,
    key_or_end,
    before_key,
    key,
    colon,
    value,
    in_value,
    after_value,
    close
  };

  bool is_arguments() const {
    return key_ == "arguments" || key_ == "parameters";
  }

  Status start_value(char c, std::vector<ChatEvent>& out) {
    scanner_ = JsonScanner();
    value_.clear();
    at_ = At::in_value;
    if (key_ == "name" && (c != '"' || name_)) {
      return fail("\"name\" must be one string");
    }
    if (is_arguments()) {
      if (have_arguments_) {
        return fail("\"arguments\" is given twice");
      }
      have_arguments_ = true;
      if (c != '{' && c != '"') {
        return fail("\"arguments\" must be an object");
      }
      streams_ = c == '{';
    }
    return scan(c, out);
  }

  Status after_value(char c, std::vector<ChatEvent>& out) {
    if (c == ',') {
      at_ = At::before_key;
      return Status::open;
    }
    return c == '}' ? finish_object(out)
                    : fail("expected ',' or '}' after a value");
  }

  Status scan(char c, std::vector<ChatEvent>& out) {
    JsonScanner::Step step = scanner_.put(c);
    if (step == JsonScanner::Step::error) {
      return fail("the JSON is not valid");
    }
    if (step == JsonScanner::Step::done_before) {
      at_ = At::after_value;
      return put(c, out);
    }
    if (at_ == At::in_value && is_arguments() && streams_) {
      stream(std::string(1, c), out);
    } else {
      value_ += c;
    }
    if (step == JsonScanner::Step::more) {
      return Status::open;
    }
    if (at_ == At::key) {
      at_ = At::colon;
      key_ = decoded();
      return Status::open;
    }
    at_ = At::after_value;
    return take_value(out);
  }

  Status take_value(std::vector<ChatEvent>& out) {
    if (key_ == "name") {
      name_ = decoded();
      if (name_->empty()) {
        return fail("\"name\" is empty");
      }
      begin(*name_, out);
      arguments(std::move(early_), out);
    } else if (is_arguments() && !streams_) {
      std::string text = decoded();
      try {
        if (!parse_json(text, "arguments").is_dict()) {
          return fail("\"arguments\" must be an object");
        }
      } catch (const InvalidArgument&) {
        return fail("\"arguments\" is a string without valid JSON");
      }
      stream(std::move(text), out);
    }
    return Status::open;
  }

  // value_ is a valid JSON string.
  std::string decoded() const {
    return parse_json(value_, "string").as_string();
  }

  void stream(std::string text, std::vector<ChatEvent>& out) {
    if (name_) {
      arguments(std::move(text), out);
    } else {
      early_ += text;
    }
  }

  Status finish_object(std::vector<ChatEvent>& out) {
    if (!name_) {
      return fail("there is no \"name\"");
    }
    if (!have_arguments_) {
      arguments("{}", out);
    }
    at_ = At::close;
    return Status::open;
  }

  At at_ = At::object;
  JsonScanner scanner_;
  std::string key_;
  std::string value_; // A key or value that is needed whole.
  std::optional<std::string> name_;
  bool have_arguments_ = false;
  bool streams_ = false;
  std::string early_; // Arguments that came before the name.
  std::string held_;
};

} // namespace

ToolCallParser::Status
ToolCallParser::close(char c, std::string& held, std::vector<ChatEvent>& out) {
  if (held.empty() && is_space(c)) {
    return Status::open;
  }
  held += c;
  if (!call_close.starts_with(held)) {
    return fail("expected " + std::string(call_close) + " after the call");
  }
  if (held.size() < call_close.size()) {
    return Status::open;
  }
  end(out);
  return Status::closed;
}

std::unique_ptr<ToolCallParser> make_hermes_parser(int index) {
  return std::make_unique<HermesCall>(index);
}

} // namespace qwen3_mlx
