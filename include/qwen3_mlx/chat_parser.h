// SPDX-License-Identifier: MIT
// Takes a model's answer apart while it streams: reasoning, tool calls, and
// the text that is left.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "qwen3_mlx/messages.h"

namespace qwen3_mlx {

/// How a model writes tool calls.
enum class ToolCallFormat {
  none,
  /// <tool_call>{"name": ..., "arguments": {...}}</tool_call>: Qwen2.5, Qwen3.
  hermes_json,
  /// <tool_call><function=f><parameter=p>...: Qwen3-Coder, Qwen3.5.
  qwen3_coder_xml
};

struct ChatEvent {
  enum class Kind {
    content,             ///< `text` is more of the answer.
    reasoning,           ///< `text` is more of the reasoning.
    tool_call_begin,     ///< Call `index` is of the function named `text`.
    tool_call_arguments, ///< `text` is more of call `index`'s JSON arguments.
    tool_call_end, ///< Call `index` is complete: its arguments are valid JSON.
    /// What the model wrote as call `index` is no call: `text` is all of it,
    /// markup included, and `reason` says why. Drop what came of this call.
    malformed_tool_call
  };
  Kind kind;
  std::string text = {};
  int index = 0;
  std::string reason = {};

  bool operator==(const ChatEvent&) const = default;
};

struct ChatParserOptions {
  /// Look for <think> ... </think>. False: they are ordinary text.
  bool reasoning = true;
  /// The prompt already opened <think> (see opens_reasoning).
  bool starts_in_reasoning = false;
  ToolCallFormat tool_calls = ToolCallFormat::none;
  /// Types of XML parameters come from here; without them a value that is JSON
  /// counts as such, and any other as a string.
  std::vector<Tool> tools = {};
};

/// Feed it text as it is detokenized; any cut into pieces gives the same
/// events, apart from how `text` is cut. Newlines that only separate reasoning,
/// calls and text are dropped.
class ChatParser {
 public:
  /// Throws InvalidArgument when a tool is no JSON object.
  explicit ChatParser(const ChatParserOptions& options);
  ~ChatParser();
  ChatParser(ChatParser&&) noexcept;
  ChatParser& operator=(ChatParser&&) noexcept;

  /// What became certain with this text. Neighbouring events of one kind are
  /// merged.
  std::vector<ChatEvent> add(std::string_view text);
  /// What was held back; call once, at the end of the answer.
  std::vector<ChatEvent> finish();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

/// The format that a chat template asks the model for.
ToolCallFormat find_tool_call_format(std::string_view template_source);

/// Whether a rendered prompt ends inside an open <think>.
bool opens_reasoning(std::string_view prompt);

} // namespace qwen3_mlx
