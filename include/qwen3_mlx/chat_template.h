// SPDX-License-Identifier: MIT
// Chat templates: the Jinja text inside a model that turns a conversation into
// a prompt. Rendered by an engine of our own that reaches no file, variable of
// the environment or network, within limits.
#pragma once

#include <chrono>
#include <cstddef>
#include <ctime>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "qwen3_mlx/messages.h"

namespace qwen3_mlx {

/// What one rendering may use up; past it, TemplateError. The defaults leave
/// room for conversations of megabytes.
struct TemplateLimits {
  std::size_t max_steps = 1'000'000;
  int max_depth = 100; ///< Macros and recursive loops inside each other.
  std::size_t max_output_bytes = std::size_t{8} << 20; ///< Of any one text.
  std::size_t max_items = 100'000;                     ///< Of a list or range.
  std::chrono::milliseconds max_time{250};             ///< Processor time.
};

struct RenderOptions {
  /// Ends the prompt where the assistant's next message begins.
  bool add_generation_prompt = false;
  /// Passed to the template when set; Qwen3 thinks unless it is false.
  std::optional<bool> enable_thinking = std::nullopt;
  /// More variables for the template: the JSON text of an object.
  std::string chat_template_kwargs = {};
  /// What strftime_now() shows; absent: the local time.
  std::optional<std::tm> now = std::nullopt;
  TemplateLimits limits = {};
};

/// Values of bos_token, eos_token, pad_token ... by name.
using SpecialTokens = std::map<std::string, std::string>;

/// A parsed template and the special tokens it may name. A cheap handle on
/// shared const state: copies and concurrent rendering are fine.
class ChatTemplate {
 public:
  /// Throws TemplateError, with line and column, when `source` is not a
  /// template. `name` stands before the line in errors.
  explicit ChatTemplate(
      std::string_view source,
      SpecialTokens special_tokens = {},
      std::string_view name = "chat template");
  /// Named templates, of which "default" or, when tools are given, "tool_use"
  /// is rendered. Throws InvalidArgument when there is no "default".
  explicit ChatTemplate(
      const std::map<std::string, std::string>& sources,
      SpecialTokens special_tokens = {},
      std::string_view name = "chat template");
  /// The plain ChatML format, for models without a template.
  static ChatTemplate chatml(SpecialTokens special_tokens = {});

  /// The prompt for a conversation, UTF-8. As mlx-lm's server does before it
  /// renders: content that is absent becomes "", text parts are joined, and
  /// the arguments of tool calls are parsed. Throws TemplateError when the
  /// template fails or raises (line and column say where), and InvalidArgument
  /// for a part that is no text or arguments that are no JSON.
  std::string render(
      std::span<const Message> messages,
      std::span<const Tool> tools = {},
      const RenderOptions& options = {}) const;

  /// The prompt for a request as JSON: {"messages":[...], "tools":[...],
  /// "documents":[...], "add_generation_prompt":..., "chat_template_kwargs":
  /// {...}} and names of special tokens such as "bos_token". Messages and
  /// tools reach the template as they are, which gives what transformers'
  /// apply_chat_template gives for them. `options` holds defaults. Throws as
  /// render() does.
  std::string render_json(
      std::string_view request,
      const RenderOptions& options = {}) const;

  /// True for the stand-in of a model that has no template: warn the user.
  bool is_default() const;
  /// The template's text; the one for tools when there are several.
  const std::string& source(bool with_tools = false) const;
  const SpecialTokens& special_tokens() const;

 private:
  struct State;
  explicit ChatTemplate(std::shared_ptr<const State> state);
  std::shared_ptr<const State> state_;
};

/// The chat template of a model directory (chat_template.jinja and
/// additional_chat_templates/, else tokenizer_config.json, else the ChatML
/// stand-in), of a GGUF file, of a tokenizer_config.json, or the template in
/// any other file. Throws FileError, FieldError or TemplateError.
ChatTemplate load_chat_template(const std::filesystem::path& path);

} // namespace qwen3_mlx
