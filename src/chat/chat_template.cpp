// SPDX-License-Identifier: MIT
#include "qwen3_mlx/chat_template.h"

#include <algorithm>
#include <array>

#include "base/utf8.h"
#include "chat/jinja/template.h"
#include "chat/json_value.h"
#include "qwen3_mlx/error.h"

namespace qwen3_mlx {

namespace {

using jinja::Dict;
using jinja::Value;

// System, user and assistant turns between the two markers; nothing else.
constexpr std::string_view chatml_source =
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message.role + '\\n' + message.content + "
    "'<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

std::tm local_time() {
  std::time_t seconds = std::time(nullptr);
  std::tm out{};
  localtime_r(&seconds, &out);
  return out;
}

// The names under which a message's reasoning comes, the usual one first.
constexpr std::array<std::string_view, 3> reasoning_fields = {
    "reasoning_content",
    "thinking",
    "reasoning"};

// As transformers does: reasoning_content is filled from its other names, and
// `thinking`, which gpt-oss templates read, from it.
Value fill_reasoning(const Value& message) {
  const Dict& fields = message.as_dict();
  const Value* reasoning = nullptr;
  for (std::string_view name : reasoning_fields) {
    const Value* v = fields.find(name);
    if (reasoning == nullptr && v != nullptr && !v->is_none()) {
      reasoning = v;
    }
  }
  if (reasoning == nullptr) {
    return message;
  }
  Dict out;
  out.set(Value("thinking"), *reasoning);
  for (const auto& [key, value] : fields.items()) {
    out.set(key, value);
  }
  out.set(Value("reasoning_content"), *reasoning);
  return Value::dict(std::move(out));
}

Value fill_reasoning_of_all(const Value& messages) {
  std::vector<Value> out;
  for (const Value& message : messages.items()) {
    if (!message.is_dict()) {
      throw InvalidArgument(
          "messages[" + std::to_string(out.size()) +
          "]: expected an object, found " + message.type_name());
    }
    out.push_back(fill_reasoning(message));
  }
  return Value::list(std::move(out));
}

std::string joined_text(const Message& message, std::size_t index) {
  if (message.content) {
    return replace_invalid_utf8(*message.content);
  }
  std::string out;
  for (const ContentPart& part : message.parts) {
    if (part.type != "text") {
      throw InvalidArgument(
          "messages[" + std::to_string(index) +
          "].content: expected parts of type \"text\", found \"" + part.type +
          "\": this model reads text only");
    }
    out += part.text;
  }
  return replace_invalid_utf8(out);
}

Value to_value(const ToolCall& call, const std::string& place) {
  Dict function;
  function.set(Value("name"), Value(replace_invalid_utf8(call.name)));
  function.set(
      Value("arguments"),
      call.arguments.empty()
          ? Value(call.arguments)
          : parse_json(call.arguments, place + ".function.arguments"));
  Dict out;
  if (!call.id.empty()) {
    out.set(Value("id"), Value(replace_invalid_utf8(call.id)));
  }
  out.set(Value("type"), Value("function"));
  out.set(Value("function"), Value::dict(std::move(function)));
  return Value::dict(std::move(out));
}

Value to_value(const Message& message, std::size_t index) {
  Dict out;
  auto set_text = [&](const char* key, const std::optional<std::string>& v) {
    if (v) {
      out.set(Value(key), Value(replace_invalid_utf8(*v)));
    }
  };
  set_text("role", message.role);
  set_text("content", joined_text(message, index));
  set_text("reasoning_content", message.reasoning_content);
  set_text("tool_call_id", message.tool_call_id);
  set_text("name", message.name);
  if (!message.tool_calls.empty()) {
    std::vector<Value> calls;
    for (const ToolCall& call : message.tool_calls) {
      calls.push_back(to_value(
          call,
          "messages[" + std::to_string(index) + "].tool_calls[" +
              std::to_string(calls.size()) + "]"));
    }
    out.set(Value("tool_calls"), Value::list(std::move(calls)));
  }
  return Value::dict(std::move(out));
}

// Names that chat_template_kwargs may not replace: they are the request.
constexpr std::array<std::string_view, 7> reserved = {
    "messages",
    "tools",
    "documents",
    "add_generation_prompt",
    "conversation",
    "chat_template",
    "tokenize"};

void add_kwargs(Dict& context, const Value& kwargs) {
  if (kwargs.is_none()) {
    return;
  }
  if (!kwargs.is_dict()) {
    throw InvalidArgument(
        "chat_template_kwargs: expected an object, found " +
        kwargs.type_name());
  }
  for (const auto& [key, value] : kwargs.as_dict().items()) {
    if (std::find(reserved.begin(), reserved.end(), key.as_string()) !=
        reserved.end()) {
      throw InvalidArgument(
          "chat_template_kwargs: \"" + key.as_string() +
          "\" cannot be set here; give it as a field of the request");
    }
    context.set(key, value);
  }
}

Dict base_context(const SpecialTokens& tokens, const RenderOptions& options) {
  Dict context;
  for (const auto& [name, text] : tokens) {
    context.set(Value(name), Value(replace_invalid_utf8(text)));
  }
  if (options.enable_thinking) {
    context.set(Value("enable_thinking"), Value(*options.enable_thinking));
  }
  if (!options.chat_template_kwargs.empty()) {
    add_kwargs(
        context,
        parse_json(options.chat_template_kwargs, "chat_template_kwargs"));
  }
  return context;
}

} // namespace

struct ChatTemplate::State {
  SpecialTokens special_tokens;
  bool is_default = false;
  std::map<std::string, jinja::Template> templates;

  const jinja::Template& pick(bool with_tools) const {
    auto it = with_tools ? templates.find("tool_use") : templates.end();
    return (it != templates.end() ? it : templates.find("default"))->second;
  }

  std::string
  render(Dict context, bool with_tools, const RenderOptions& options) const {
    const jinja::Template& chosen = pick(with_tools);
    // The clock is read here and not by the template.
    std::tm now{};
    if (options.now) {
      now = *options.now;
    } else if (chosen.source().find("strftime_now") != std::string::npos) {
      now = local_time();
    }
    return chosen.render(std::move(context), options.limits, now);
  }
};

ChatTemplate::ChatTemplate(std::shared_ptr<const State> state)
    : state_(std::move(state)) {}

ChatTemplate::ChatTemplate(
    const std::map<std::string, std::string>& sources,
    SpecialTokens special_tokens,
    std::string_view name) {
  if (!sources.contains("default")) {
    throw InvalidArgument(
        std::string(name) + ": there is no template named \"default\"");
  }
  auto state = std::make_shared<State>();
  state->special_tokens = std::move(special_tokens);
  for (const auto& [key, source] : sources) {
    std::string shown(name);
    if (sources.size() > 1) {
      shown += " (" + key + ")";
    }
    state->templates.emplace(key, jinja::Template(source, shown));
  }
  state_ = std::move(state);
}

ChatTemplate::ChatTemplate(
    std::string_view source,
    SpecialTokens special_tokens,
    std::string_view name)
    : ChatTemplate(
          std::map<std::string, std::string>{{"default", std::string(source)}},
          std::move(special_tokens),
          name) {}

ChatTemplate ChatTemplate::chatml(SpecialTokens special_tokens) {
  auto state = std::make_shared<State>();
  state->special_tokens = std::move(special_tokens);
  state->is_default = true;
  state->templates.emplace("default", jinja::Template(chatml_source, "ChatML"));
  return ChatTemplate(std::move(state));
}

std::string ChatTemplate::render(
    std::span<const Message> messages,
    std::span<const Tool> tools,
    const RenderOptions& options) const {
  Dict context = base_context(state_->special_tokens, options);
  std::vector<Value> all;
  for (const Message& message : messages) {
    all.push_back(to_value(message, all.size()));
  }
  context.set(
      Value("messages"), fill_reasoning_of_all(Value::list(std::move(all))));
  std::vector<Value> described;
  for (const Tool& tool : tools) {
    described.push_back(parse_json(
        tool.json, "tools[" + std::to_string(described.size()) + "]"));
  }
  bool with_tools = !described.empty();
  context.set(
      Value("tools"), with_tools ? Value::list(std::move(described)) : Value());
  context.set(Value("documents"), Value());
  context.set(
      Value("add_generation_prompt"), Value(options.add_generation_prompt));
  return state_->render(std::move(context), with_tools, options);
}

std::string ChatTemplate::render_json(
    std::string_view request,
    const RenderOptions& options) const {
  Value parsed = parse_json(request, "request");
  if (!parsed.is_dict()) {
    throw InvalidArgument(
        "request: expected an object, found " + parsed.type_name());
  }
  const Dict& fields = parsed.as_dict();
  auto field = [&](std::string_view name) {
    const Value* v = fields.find(name);
    return v ? *v : Value();
  };
  Value messages = field("messages");
  if (!messages.is_list()) {
    throw InvalidArgument(
        "messages: expected an array, found " + messages.type_name());
  }
  Value tools = field("tools");
  Value documents = field("documents");
  for (const auto& [name, list] :
       {std::pair{"tools", tools}, std::pair{"documents", documents}}) {
    if (list.is_none()) {
      continue;
    }
    bool objects = list.is_list() &&
        std::all_of(list.items().begin(), list.items().end(), [](auto& v) {
                     return v.is_dict();
                   });
    if (!objects) {
      throw InvalidArgument(
          std::string(name) + ": expected an array of objects");
    }
  }
  Dict context = base_context(state_->special_tokens, options);
  for (const auto& [key, value] : fields.items()) {
    if (key.as_string().ends_with("_token") && value.is_string()) {
      context.set(key, value);
    }
  }
  add_kwargs(context, field("chat_template_kwargs"));
  context.set(Value("messages"), fill_reasoning_of_all(messages));
  context.set(Value("tools"), tools);
  context.set(Value("documents"), documents);
  Value prompt = field("add_generation_prompt");
  context.set(
      Value("add_generation_prompt"),
      prompt.is_none() ? Value(options.add_generation_prompt) : prompt);
  return state_->render(std::move(context), jinja::truthy(tools), options);
}

bool ChatTemplate::is_default() const {
  return state_->is_default;
}

const std::string& ChatTemplate::source(bool with_tools) const {
  return state_->pick(with_tools).source();
}

const SpecialTokens& ChatTemplate::special_tokens() const {
  return state_->special_tokens;
}

} // namespace qwen3_mlx
