// SPDX-License-Identifier: MIT

#include "cli/chat_session.h"

#include <utility>

#include "base/file.h"
#include "qwen3_mlx/chat_parser.h"
#include "qwen3_mlx/error.h"

namespace qwen3_mlx::cli {
namespace {

bool is_message(const Json& message) {
  const auto is_text = [&message](const char* key) {
    return message.contains(key) && message[key].is_string();
  };
  return message.is_object() && is_text("role") && is_text("content");
}

} // namespace

ChatSession::ChatSession(
    Model model,
    Tokenizer tokenizer,
    PromptRenderer renderer,
    const CacheOptions& cache_options)
    : model_(std::move(model)), tokenizer_(std::move(tokenizer)),
      renderer_(std::move(renderer)), held_(model_.make_cache(cache_options)) {}

void ChatSession::set_system_prompt(std::string text) {
  system_prompt_ = std::move(text);
}

void ChatSession::clear() {
  turns_ = Json::array();
}

Json ChatSession::messages() const {
  auto all = Json::array();
  if (!system_prompt_.empty()) {
    all.push_back({{"role", "system"}, {"content", system_prompt_}});
  }
  all.insert(all.end(), turns_.begin(), turns_.end());
  return all;
}

Answer ChatSession::ask(
    const std::string& text,
    const SamplingParams& params,
    const GenerateOptions& options,
    const TextSink& sink) {
  auto asked = messages();
  const Json question{{"role", "user"}, {"content", text}};
  asked.push_back(question);
  const auto prompt_text = renderer_.render(asked);
  const auto prompt = tokenizer_.encode(prompt_text);

  std::string thinking;
  std::string said;
  ChatParser parser({.starts_in_reasoning = opens_reasoning(prompt_text)});
  const auto show = [&](const std::vector<ChatEvent>& events) {
    for (const auto& event : events) {
      const bool is_thinking = event.kind == ChatEvent::Kind::reasoning;
      (is_thinking ? thinking : said) += event.text;
      sink(event.text, is_thinking);
    }
  };
  auto answer = generate_answer(
      model_,
      &tokenizer_,
      held_,
      prompt,
      params,
      options,
      [&](std::string_view piece) { show(parser.add(piece)); });
  show(parser.finish());
  if (answer.ids.empty()) {
    return answer; // cancelled before its first token: nothing was said
  }
  Json reply{{"role", "assistant"}, {"content", said}};
  if (!thinking.empty()) {
    reply["reasoning_content"] = thinking;
  }
  turns_.push_back(question);
  turns_.push_back(std::move(reply));
  return answer;
}

void ChatSession::save(const std::filesystem::path& path) const {
  AtomicFile file(path, AtomicFile::Access::owner);
  file.write(
      Json{{"messages", messages()}}.dump(
          2, ' ', false, Json::error_handler_t::replace) +
      "\n");
  file.commit();
}

void ChatSession::load(const std::filesystem::path& path) {
  const auto saved =
      Json::parse(read_file(path), nullptr, /* allow_exceptions */ false);
  if (!saved.is_object() || !saved.contains("messages") ||
      !saved["messages"].is_array()) {
    throw FileError(path, "expected JSON of the form {\"messages\": [...]}");
  }
  std::string system_prompt;
  auto turns = Json::array();
  for (const auto& message : saved["messages"]) {
    if (!is_message(message)) {
      throw FileError(
          path,
          "expected messages with a role and a content, found " +
              message.dump(-1, ' ', false, Json::error_handler_t::replace));
    }
    if (message["role"] == "system" && turns.empty()) {
      system_prompt = message["content"].get<std::string>();
    } else {
      turns.push_back(message);
    }
  }
  system_prompt_ = std::move(system_prompt);
  turns_ = std::move(turns);
}

} // namespace qwen3_mlx::cli
