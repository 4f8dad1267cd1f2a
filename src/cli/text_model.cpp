// SPDX-License-Identifier: MIT

#include "cli/text_model.h"

#include <charconv>
#include <iostream>

#include <CLI/CLI.hpp>

#include "formats/gguf.h"
#include "qwen3_mlx/error.h"

namespace qwen3_mlx::cli {
namespace {

bool is_separator(char c) {
  return c == ',' || c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

Json parse_variables(const std::string& text) {
  if (text.empty()) {
    return Json::object();
  }
  auto variables = Json::parse(text, nullptr, /* allow_exceptions */ false);
  if (!variables.is_object()) {
    throw CLI::ValidationError(
        "--chat-template-config",
        "expected a JSON object, as in '{\"enable_thinking\": false}', found "
        "'" +
            text + "'");
  }
  return variables;
}

ChatTemplate load_template(
    const std::filesystem::path& model,
    const TemplateOptions& options) {
  if (options.use_default) {
    return ChatTemplate::chatml();
  }
  return load_chat_template(options.file.empty() ? model : options.file);
}

// Stands for the last message's content while the text around it is rendered.
constexpr std::string_view marker = "<content of the prompt>";

} // namespace

PromptRenderer::PromptRenderer(
    const std::filesystem::path& model,
    const TemplateOptions& options)
    : template_(load_template(model, options)),
      variables_(parse_variables(options.config)),
      is_fallback_(!options.use_default && template_.is_default()) {}

std::string
PromptRenderer::render(const Json& messages, bool add_generation_prompt) const {
  const Json request{
      {"messages", messages},
      {"add_generation_prompt", add_generation_prompt},
      {"chat_template_kwargs", variables_}};
  // What a user types need not be UTF-8.
  return template_.render_json(
      request.dump(-1, ' ', false, Json::error_handler_t::replace));
}

std::string PromptRenderer::render(const Json& messages) const {
  return render(messages, /* add_generation_prompt */ true);
}

PromptRenderer::Around
PromptRenderer::render_around(Json messages, bool add_generation_prompt) const {
  messages.back()["content"] = marker;
  const auto text = render(messages, add_generation_prompt);
  const auto at = text.find(marker);
  if (at == std::string::npos) {
    throw Error(
        "the chat template does not keep a message as it is, so no prompt "
        "cache can be used with it; try --ignore-chat-template");
  }
  return {text.substr(0, at), text.substr(at + marker.size())};
}

std::string PromptRenderer::render_before_end(const Json& messages) const {
  const auto around =
      render_around(messages, /* add_generation_prompt */ false);
  return around.before + messages.back().at("content").get<std::string>();
}

std::string PromptRenderer::render_from_content(const Json& messages) const {
  const auto around = render_around(messages, /* add_generation_prompt */ true);
  return messages.back().at("content").get<std::string>() + around.after;
}

void warn_of_fallback(const PromptRenderer& renderer) {
  if (renderer.is_fallback()) {
    std::cerr << "qwen3-mlx: the model has no chat template; using ChatML "
                 "(--use-default-chat-template says so without this line)\n";
  }
}

Json make_messages(const std::string& system_prompt, const std::string& user) {
  auto messages = Json::array();
  if (!system_prompt.empty()) {
    messages.push_back({{"role", "system"}, {"content", system_prompt}});
  }
  messages.push_back({{"role", "user"}, {"content", user}});
  return messages;
}

std::optional<Tokenizer> find_tokenizer(const std::filesystem::path& model) {
  const bool has_tokenizer = std::filesystem::is_directory(model)
      ? std::filesystem::exists(model / "tokenizer.json")
      : GgufFile(model).has("tokenizer.ggml.model");
  return has_tokenizer ? std::optional(load_tokenizer(model)) : std::nullopt;
}

std::vector<std::uint32_t>
parse_ids(std::string_view text, const std::string& option) {
  std::vector<std::uint32_t> ids;
  const char* at = text.data();
  const char* const end = at + text.size();
  while (at != end) {
    if (is_separator(*at)) {
      ++at;
      continue;
    }
    std::uint32_t id = 0;
    const auto [rest, error] = std::from_chars(at, end, id);
    if (error != std::errc() || (rest != end && !is_separator(*rest))) {
      throw CLI::ValidationError(
          option,
          "expected token ids such as 1,2,3, found '" + std::string(at, end) +
              "'");
    }
    ids.push_back(id);
    at = rest;
  }
  return ids;
}

} // namespace qwen3_mlx::cli
