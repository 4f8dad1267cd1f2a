// SPDX-License-Identifier: MIT

#include "cli/text_model.h"

#include <charconv>
#include <limits>

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

std::string render_chatml(const Json& request) {
  std::string text;
  for (const auto& message : request.at("messages")) {
    text += "<|im_start|>" + message.at("role").get<std::string>() + "\n" +
        message.at("content").get<std::string>() + "<|im_end|>\n";
  }
  if (request.at("add_generation_prompt").get<bool>()) {
    text += "<|im_start|>assistant\n";
  }
  return text;
}

std::size_t find_content(const std::string& text, const Json& messages) {
  const auto content = messages.back().at("content").get<std::string>();
  const auto at = text.rfind(content);
  if (at == std::string::npos) {
    throw Error(
        "the chat template does not keep the prompt as it is, so it cannot be "
        "split for a prompt cache; use --ignore-chat-template");
  }
  return at;
}

} // namespace

PromptRenderer::PromptRenderer(
    const std::filesystem::path&,
    const TemplateOptions& options)
    : render_(render_chatml), variables_(parse_variables(options.config)) {}

std::string
PromptRenderer::render(const Json& messages, bool add_generation_prompt) const {
  return render_(Json{
      {"messages", messages},
      {"add_generation_prompt", add_generation_prompt},
      {"chat_template_kwargs", variables_}});
}

std::string PromptRenderer::render(const Json& messages) const {
  return render(messages, /* add_generation_prompt */ true);
}

std::string PromptRenderer::render_before_end(const Json& messages) const {
  const auto text = render(messages, /* add_generation_prompt */ false);
  const auto content = messages.back().at("content").get<std::string>();
  return text.substr(0, find_content(text, messages) + content.size());
}

std::string PromptRenderer::render_from_content(const Json& messages) const {
  const auto text = render(messages);
  return text.substr(find_content(text, messages));
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
