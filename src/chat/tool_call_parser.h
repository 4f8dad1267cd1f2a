// SPDX-License-Identifier: MIT
// One tool call of an answer, from behind "<tool_call>" to the end of
// "</tool_call>", character by character.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "qwen3_mlx/chat_parser.h"

namespace qwen3_mlx {

inline constexpr std::string_view call_open = "<tool_call>";
inline constexpr std::string_view call_close = "</tool_call>";

/// JSON types of a function's parameters, by function and parameter.
using ParameterTypes =
    std::map<std::string, std::map<std::string, std::vector<std::string>>>;

class ToolCallParser {
 public:
  enum class Status { open, closed, malformed };

  virtual ~ToolCallParser() = default;
  /// Takes the next character; may append events. After Status::malformed
  /// reason() says what is wrong, and put() is not called again.
  virtual Status put(char c, std::vector<ChatEvent>& out) = 0;
  /// True when only the closing tag is missing.
  virtual bool complete() const = 0;
  /// Ends a complete call.
  void end(std::vector<ChatEvent>& out) const {
    out.push_back({ChatEvent::Kind::tool_call_end, {}, index_, {}});
  }
  const std::string& reason() const {
    return reason_;
  }

 protected:
  explicit ToolCallParser(int index) : index_(index) {}

  Status fail(std::string reason) {
    reason_ = std::move(reason);
    return Status::malformed;
  }
  void begin(const std::string& name, std::vector<ChatEvent>& out) const {
    out.push_back({ChatEvent::Kind::tool_call_begin, name, index_, {}});
  }
  void arguments(std::string text, std::vector<ChatEvent>& out) const {
    if (!text.empty()) {
      out.push_back(
          {ChatEvent::Kind::tool_call_arguments, std::move(text), index_, {}});
    }
  }
  /// The closing tag, with white space before it. `held` keeps what of it has
  /// come.
  Status close(char c, std::string& held, std::vector<ChatEvent>& out);

 private:
  int index_;
  std::string reason_;
};

std::unique_ptr<ToolCallParser> make_hermes_parser(int index);
/// `types` must outlive the parser.
std::unique_ptr<ToolCallParser>
make_xml_parser(int index, const ParameterTypes& types);

} // namespace qwen3_mlx
