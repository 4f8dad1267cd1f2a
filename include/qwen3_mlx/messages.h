// SPDX-License-Identifier: MIT
// A conversation in the terms of OpenAI's chat format.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace qwen3_mlx {

/// A part of a message's content. Only parts of type "text" can be rendered.
struct ContentPart {
  std::string type = "text";
  std::string text;
};

/// A call of a function that the model asked for.
struct ToolCall {
  std::string id;
  std::string name;
  std::string arguments; ///< JSON text, normally of an object.
};

/// One message. `content` is absent for JSON null; a list of parts is in
/// `parts`, with `content` absent.
struct Message {
  std::string role;
  std::optional<std::string> content = std::nullopt;
  std::vector<ContentPart> parts = {};
  std::vector<ToolCall> tool_calls = {};
  std::optional<std::string> tool_call_id = std::nullopt;
  std::optional<std::string> name = std::nullopt;
  std::optional<std::string> reasoning_content = std::nullopt;
};

/// A tool the model may call: the JSON text of its description, as in
/// {"type":"function","function":{"name":...,"parameters":{...}}}.
struct Tool {
  std::string json;
};

/// The messages of a JSON array. Roles are system, developer, user, assistant,
/// tool and function. The reasoning of a message may be named
/// reasoning_content, reasoning or thinking. Unknown fields are ignored.
/// Invalid UTF-8 is replaced by U+FFFD. Throws InvalidArgument, which names the
/// place ("messages[2].content[0].type"), what was expected and what was found.
std::vector<Message> parse_messages(std::string_view json);

/// The tools of a JSON array of objects. Throws as parse_messages does.
std::vector<Tool> parse_tools(std::string_view json);

} // namespace qwen3_mlx
