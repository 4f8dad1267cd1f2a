// SPDX-License-Identifier: MIT
// Any bytes as a model's answer, whole and cut in pieces: the events must be
// the same, and the arguments of a complete call must be JSON.
#include <cstdint>
#include <cstdlib>
#include <map>
#include <string_view>

#include "chat/json_value.h"
#include "qwen3_mlx/chat_parser.h"

namespace {

using namespace qwen3_mlx;
using Kind = ChatEvent::Kind;

void append(std::vector<ChatEvent>& events, std::vector<ChatEvent> more) {
  for (ChatEvent& event : more) {
    bool joins = !events.empty() && events.back().kind == event.kind &&
        events.back().index == event.index &&
        (event.kind == Kind::content || event.kind == Kind::reasoning ||
         event.kind == Kind::tool_call_arguments);
    if (joins) {
      events.back().text += event.text;
    } else {
      events.push_back(std::move(event));
    }
  }
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t n) {
  if (n < 2) {
    return 0;
  }
  ChatParserOptions options;
  options.tool_calls = (data[0] & 1) != 0 ? ToolCallFormat::hermes_json
                                          : ToolCallFormat::qwen3_coder_xml;
  options.starts_in_reasoning = (data[0] & 2) != 0;
  options.reasoning = (data[0] & 4) == 0;
  if ((data[0] & 8) != 0) {
    options.tools = {
        {R"({"name":"f","parameters":{"properties":{"a":{"type":"string"},
             "b":{"type":"integer"},"c":{"type":["string","null"]}}}})"}};
  }
  std::size_t step = data[1] % 7u + 1;
  std::string_view text(reinterpret_cast<const char*>(data) + 2, n - 2);
  ChatParser whole(options);
  std::vector<ChatEvent> expected;
  append(expected, whole.add(text));
  append(expected, whole.finish());
  ChatParser cut(options);
  std::vector<ChatEvent> events;
  for (std::size_t at = 0; at < text.size(); at += step) {
    append(events, cut.add(text.substr(at, step)));
  }
  append(events, cut.finish());
  if (events != expected) {
    std::abort();
  }
  std::map<int, std::string> arguments;
  for (const ChatEvent& event : events) {
    if (event.kind == Kind::tool_call_arguments) {
      arguments[event.index] += event.text;
    } else if (event.kind == Kind::tool_call_end) {
      // Throws, and so is a finding, when it is not JSON.
      if (!parse_json(arguments[event.index], "arguments").is_dict()) {
        std::abort();
      }
    }
  }
  return 0;
}
