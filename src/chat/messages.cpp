// SPDX-License-Identifier: MIT
#include "qwen3_mlx/messages.h"

#include <algorithm>
#include <array>
#include <ctime>

#include "chat/json_text.h"
#include "chat/json_value.h"
#include "qwen3_mlx/error.h"

namespace qwen3_mlx {

namespace {

using jinja::Dict;
using jinja::Value;

std::string json_type(const Value& v) {
  switch (v.kind()) {
  case Value::Kind::none:
    return "null";
  case Value::Kind::boolean:
    return "a boolean";
  case Value::Kind::integer:
  case Value::Kind::real:
    return "a number";
  case Value::Kind::string:
    return "a string";
  case Value::Kind::list:
    return "an array";
  default:
    return "an object";
  }
}

[[noreturn]] void fail(
    const std::string& place,
    const std::string& expected,
    const Value* found) {
  throw InvalidArgument(
      place + ": expected " + expected + ", found " +
      (found ? json_type(*found) : "nothing"));
}

// A field that is there and not null.
const Value* present(const Dict& object, std::string_view name) {
  const Value* v = object.find(name);
  return v != nullptr && !v->is_none() ? v : nullptr;
}

std::string text_field(
    const Dict& object,
    std::string_view name,
    const std::string& place) {
  const Value* v = object.find(name);
  if (v == nullptr || !v->is_string()) {
    fail(place + "." + std::string(name), "a string", v);
  }
  return v->as_string();
}

std::optional<std::string> optional_text(
    const Dict& object,
    std::string_view name,
    const std::string& place) {
  if (present(object, name) == nullptr) {
    return std::nullopt;
  }
  return text_field(object, name, place);
}

std::vector<ContentPart>
parse_parts(const Value& list, const std::string& place) {
  std::vector<ContentPart> out;
  for (const Value& item : list.items()) {
    std::string at = place + "[" + std::to_string(out.size()) + "]";
    if (!item.is_dict()) {
      fail(at, "an object", &item);
    }
    ContentPart part;
    part.type = text_field(item.as_dict(), "type", at);
    if (part.type == "text") {
      part.text = text_field(item.as_dict(), "text", at);
    }
    out.push_back(std::move(part));
  }
  return out;
}

std::vector<ToolCall> parse_calls(const Value& list, const std::string& place) {
  if (!list.is_list()) {
    fail(place, "an array", &list);
  }
  std::vector<ToolCall> out;
  for (const Value& item : list.items()) {
    std::string at = place + "[" + std::to_string(out.size()) + "]";
    if (!item.is_dict()) {
      fail(at, "an object", &item);
    }
    ToolCall call;
    call.id = optional_text(item.as_dict(), "id", at).value_or("");
    const Value* function = item.as_dict().find("function");
    if (function == nullptr || !function->is_dict()) {
      fail(at + ".function", "an object", function);
    }
    at += ".function";
    call.name = text_field(function->as_dict(), "name", at);
    const Value* arguments = present(function->as_dict(), "arguments");
    if (arguments == nullptr) {
      call.arguments = "{}";
    } else if (arguments->is_string()) {
      call.arguments = arguments->as_string();
    } else {
      call.arguments = to_json(*arguments);
    }
    out.push_back(std::move(call));
  }
  return out;
}

Message parse_message(const Value& v, const std::string& place) {
  if (!v.is_dict()) {
    fail(place, "an object", &v);
  }
  const Dict& object = v.as_dict();
  Message out;
  out.role = text_field(object, "role", place);
  static constexpr std::array<std::string_view, 6> roles = {
      "system", "developer", "user", "assistant", "tool", "function"};
  if (std::find(roles.begin(), roles.end(), out.role) == roles.end()) {
    throw InvalidArgument(
        place +
        ".role: expected system, developer, user, assistant, tool or "
        "function, found \"" +
        out.role + "\"");
  }
  if (const Value* content = present(object, "content")) {
    if (content->is_string()) {
      out.content = content->as_string();
    } else if (content->is_list()) {
      out.parts = parse_parts(*content, place + ".content");
    } else {
      fail(place + ".content", "a string, an array or null", content);
    }
  }
  if (const Value* calls = present(object, "tool_calls")) {
    out.tool_calls = parse_calls(*calls, place + ".tool_calls");
  }
  out.tool_call_id = optional_text(object, "tool_call_id", place);
  out.name = optional_text(object, "name", place);
  for (const char* field : {"reasoning_content", "thinking", "reasoning"}) {
    if (!out.reasoning_content) {
      out.reasoning_content = optional_text(object, field, place);
    }
  }
  return out;
}

} // namespace

std::vector<Message> parse_messages(std::string_view json) {
  Value list = parse_json(json, "messages");
  if (!list.is_list()) {
    fail("messages", "an array", &list);
  }
  std::vector<Message> out;
  for (const Value& item : list.items()) {
    out.push_back(
        parse_message(item, "messages[" + std::to_string(out.size()) + "]"));
  }
  return out;
}

std::vector<Tool> parse_tools(std::string_view json) {
  Value list = parse_json(json, "tools");
  if (!list.is_list()) {
    fail("tools", "an array", &list);
  }
  std::vector<Tool> out;
  for (const Value& item : list.items()) {
    if (!item.is_dict()) {
      fail("tools[" + std::to_string(out.size()) + "]", "an object", &item);
    }
    out.push_back({to_json(item)});
  }
  return out;
}

} // namespace qwen3_mlx
