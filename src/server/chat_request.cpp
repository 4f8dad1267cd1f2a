// SPDX-License-Identifier: MIT
// /v1/chat/completions.
#include <algorithm>

#include "qwen3_mlx/messages.h"
#include "server/api_error.h"
#include "server/completion_request.h"
#include "server/fields.h"
#include "server/sampling_fields.h"

namespace qwen3_mlx::server {
namespace {

// The library takes any JSON here; clients are told of their mistakes.
void check_arguments(const Json& message, const std::string& place) {
  const auto calls =
      message.is_object() ? message.find("tool_calls") : message.end();
  if (calls == message.end() || !calls->is_array()) {
    return;
  }
  for (const auto& call : *calls) {
    const auto function =
        call.is_object() ? call.value("function", Json()) : Json();
    const auto arguments =
        function.is_object() ? function.value("arguments", Json()) : Json();
    if (!arguments.is_string() && !arguments.is_object()) {
      throw ApiError(
          400,
          place +
              ".tool_calls: expected the arguments of each function as a "
              "string or an object, found " +
              kind_of(arguments),
          "messages");
    }
  }
}

std::vector<Message> read_messages(Fields& fields) {
  const auto* list = fields.array("messages");
  if (list == nullptr || list->empty()) {
    fields.fail("messages", "expected at least one message");
  }
  for (std::size_t idx = 0; idx < list->size(); ++idx) {
    check_arguments((*list)[idx], "messages[" + std::to_string(idx) + "]");
  }
  try {
    return parse_messages(to_text(*list));
  } catch (const InvalidArgument& error) {
    throw ApiError(400, error.what(), "messages");
  }
}

// The tools that the model is to know of.
std::vector<Tool> read_tools(Fields& fields, const ServedModel& model) {
  const auto* list = fields.array("tools");
  const auto* choice = fields.find("tool_choice");
  if (choice != nullptr && *choice != "none" && *choice != "auto") {
    fields.fail(
        "tool_choice",
        "only \"none\" and \"auto\" are supported: a call cannot be enforced");
  }
  fields.refuse(
      "parallel_tool_calls",
      "calls cannot be limited to one; leave it out",
      {true, list == nullptr || list->empty() ? Json(false) : Json(true)});
  if (list == nullptr || list->empty()) {
    return {};
  }
  if (list->size() > 128) {
    fields.fail(
        "tools",
        "expected at most 128 tools, found " + std::to_string(list->size()));
  }
  for (std::size_t idx = 0; idx < list->size(); ++idx) {
    const auto& tool = (*list)[idx];
    const auto place = "tools[" + std::to_string(idx) + "]";
    if (!tool.is_object() || tool.value("type", Json()) != "function" ||
        !tool.value("function", Json()).is_object() ||
        !tool["function"].value("name", Json()).is_string()) {
      throw ApiError(
          400,
          place +
              ": expected {\"type\": \"function\", \"function\": {\"name\": "
              "..., \"parameters\": ...}}",
          place);
    }
    if (tool["function"].contains("parameters") &&
        !tool["function"]["parameters"].is_object() &&
        !tool["function"]["parameters"].is_null()) {
      throw ApiError(
          400,
          place + ".function.parameters: expected a JSON Schema object",
          place + ".function.parameters");
    }
  }
  if (choice != nullptr && *choice == "none") {
    return {};
  }
  if (model.tool_format == ToolCallFormat::none) {
    fields.fail("tools", "the model's chat template knows no tools");
  }
  try {
    return parse_tools(to_text(*list));
  } catch (const InvalidArgument& error) {
    throw ApiError(400, error.what(), "tools");
  }
}

// The server's template variables with the request's over them.
Json template_variables(Fields& fields, const ServedModel& model) {
  Json variables = model.template_variables;
  if (const auto* asked = fields.object("chat_template_kwargs")) {
    for (const auto& [key, value] : asked->items()) {
      if (key == "messages" || key == "tools" || key == "documents" ||
          key == "add_generation_prompt") {
        fields.fail(
            "chat_template_kwargs", "\"" + key + "\" cannot be set here");
      }
      variables[key] = value;
    }
  }
  return variables;
}

// The token of exactly that text.
std::optional<std::uint32_t>
token_of(const ServedModel& model, const std::string& text) {
  return model.tokenizer.token_to_id(text);
}

void read_thinking_budget(
    Fields& fields,
    engine::Request& request,
    const RenderedChat& chat,
    const ServedModel& model) {
  auto budget = fields.integer("thinking_budget", -1, INT32_MAX);
  const auto other = fields.integer("reasoning_budget", -1, INT32_MAX);
  budget = budget ? budget : other;
  if (!budget || *budget < 0) {
    return;
  }
  const auto open = token_of(model, "<think>");
  const auto close = token_of(model, "</think>");
  if (!open || !close) {
    fields.fail("thinking_budget", "the model has no tokens for thinking");
  }
  engine::ThinkingBudget thinking;
  thinking.max_tokens = static_cast<int>(*budget);
  thinking.open_id = *open;
  thinking.close_id = *close;
  thinking.starts_open = chat.parser.starts_in_reasoning;
  thinking.closing = model.tokenizer.encode("\n</think>\n\n");
  request.thinking = thinking;
}

} // namespace

RenderedChat render_chat(Fields& fields, const ServedModel& model) {
  const auto messages = read_messages(fields);
  const auto tools = read_tools(fields, model);
  RenderOptions options;
  options.add_generation_prompt =
      fields.boolean("add_generation_prompt").value_or(true);
  options.enable_thinking = fields.boolean("enable_thinking");
  options.chat_template_kwargs = to_text(template_variables(fields, model));
  fields.refuse(
      "continue_final_message",
      "not supported by this server; leave it out",
      {false});
  RenderedChat chat;
  chat.prompt = model.chat_template.render(messages, tools, options);
  chat.has_tools = !tools.empty();
  chat.parser.starts_in_reasoning = opens_reasoning(chat.prompt);
  chat.parser.tool_calls =
      tools.empty() ? ToolCallFormat::none : model.tool_format;
  chat.parser.tools = tools;
  return chat;
}

CompletionRequest
parse_chat_request(const Json& body, const ServedModel& model) {
  Fields fields(body);
  read_model(fields, model);
  CompletionRequest request;
  request.stream = read_stream_options(fields);
  auto generation = read_generation(fields, model);
  request.logprobs = fields.boolean("logprobs").value_or(false);
  request.top_logprobs = static_cast<int>(
      fields.integer("top_logprobs", 0, model.limits.max_top_logprobs)
          .value_or(0));
  if (request.top_logprobs > 0 && !request.logprobs) {
    fields.fail("top_logprobs", "only allowed with \"logprobs\": true");
  }
  read_others(fields);
  const auto chat = render_chat(fields, model);
  request.parser = chat.parser;
  read_thinking_budget(fields, generation, chat, model);
  // Templates write special tokens, so all of them count.
  generation.prompt = model.tokenizer.encode(chat.prompt);
  limit_tokens(generation, generation.prompt.size(), model);
  generation.sampling.logprobs = request.logprobs;
  generation.sampling.top_logprobs = request.top_logprobs;
  request.prompts.push_back(std::move(generation));
  request.unknown_fields = fields.unknown();
  return request;
}

} // namespace qwen3_mlx::server
