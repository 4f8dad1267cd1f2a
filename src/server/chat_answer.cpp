// SPDX-License-Identifier: MIT
// chat.completion objects and chunks: the text taken apart into reasoning,
// content and tool calls while it comes.
#include <ctime>
#include <map>

#include "qwen3_mlx/chat_parser.h"
#include "server/answer.h"

namespace qwen3_mlx::server {
namespace {

struct Call {
  std::string id;
  std::string name;
  std::string arguments;
  bool complete = false;
};

struct Choice {
  explicit Choice(const ChatParserOptions& options) : parser(options) {}

  ChatParser parser;
  std::string content;
  std::string reasoning;
  std::map<int, Call> calls;
  Json logprobs = Json::array();
  std::string finish_reason;
  bool has_begun = false;
};

Json logprob_json(const Tokenizer& tokenizer, std::uint32_t id, float logprob) {
  return {
      {"token", token_text(tokenizer, id)},
      {"logprob", logprob},
      {"bytes", token_bytes(tokenizer, id)}};
}

Json call_json(const Call& call) {
  return {
      {"id", call.id},
      {"type", "function"},
      {"function", {{"name", call.name}, {"arguments", call.arguments}}}};
}

class ChatAnswer final : public Answer {
 public:
  ChatAnswer(
      const ServedModel& model,
      const CompletionRequest& request,
      const std::string& id)
      : Answer(request.stream.stream, request.prompts.front().num_choices),
        model_(model), id_("chatcmpl-" + id),
        include_usage_(request.stream.include_usage),
        logprobs_(request.logprobs) {
    for (int i = 0; i < request.prompts.front().num_choices; ++i) {
      choices_.emplace_back(request.parser);
    }
  }

  std::string take(int, const engine::Event& event) override {
    auto& choice = choices_.at(static_cast<std::size_t>(event.choice));
    std::string out;
    if (!choice.has_begun) {
      choice.has_begun = true;
      out += chunk(event.choice, {{"role", "assistant"}, {"content", ""}});
    }
    auto parsed = choice.parser.add(event.text);
    if (event.finish) {
      const auto rest = choice.parser.finish();
      parsed.insert(parsed.end(), rest.begin(), rest.end());
    }
    auto logprobs = read_logprobs(event);
    for (const auto& part : parsed) {
      auto delta = apply(choice, part, event.choice);
      if (!delta.empty()) {
        out += chunk(event.choice, delta, std::exchange(logprobs, nullptr));
      }
    }
    if (logprobs.is_array() && !logprobs.empty()) {
      out += chunk(event.choice, Json::object(), logprobs);
    }
    if (event.finish) {
      note_end(event);
      choice.finish_reason = finish_name(*event.finish);
      for (const auto& [idx, call] : choice.calls) {
        if (call.complete && *event.finish == engine::Finish::stop) {
          choice.finish_reason = "tool_calls";
        }
      }
      if (!failure()) {
        out +=
            chunk(event.choice, Json::object(), nullptr, choice.finish_reason);
      }
    }
    return streams() ? out : std::string();
  }

  std::string last_chunks() override {
    std::string out;
    if (include_usage_) {
      auto object = base("chat.completion.chunk");
      object["choices"] = Json::array();
      object["usage"] = usage_json(usage());
      object["timings"] = timings_json(usage());
      out += sse(object);
    }
    return out + "data: [DONE]\n\n";
  }

  HttpResponse response() override {
    auto object = base("chat.completion");
    object["choices"] = Json::array();
    for (std::size_t idx = 0; idx < choices_.size(); ++idx) {
      object["choices"].push_back(choice_json(choices_[idx], idx));
    }
    object["usage"] = usage_json(usage());
    object["timings"] = timings_json(usage());
    HttpResponse response;
    response.body = to_text(object);
    return response;
  }

 private:
  Json base(const char* kind) const {
    return {
        {"id", id_},
        {"object", kind},
        {"created", created_},
        {"model", model_.name},
        {"system_fingerprint", model_.fingerprint}};
  }

  std::string chunk(
      int index,
      const Json& delta,
      const Json& logprobs = nullptr,
      const std::string& finish_reason = {}) const {
    if (!streams()) {
      return {};
    }
    auto object = base("chat.completion.chunk");
    Json choice{{"index", index}, {"delta", delta}};
    choice["logprobs"] = logprobs.is_array() && !logprobs.empty()
        ? Json{{"content", logprobs}, {"refusal", nullptr}}
        : Json(nullptr);
    choice["finish_reason"] =
        finish_reason.empty() ? Json(nullptr) : Json(finish_reason);
    object["choices"] = Json::array({choice});
    return sse(object);
  }

  Json read_logprobs(const engine::Event& event) {
    if (!logprobs_) {
      return nullptr;
    }
    auto list = Json::array();
    for (const auto& token : event.tokens) {
      if (!token.logprobs) {
        continue;
      }
      auto entry =
          logprob_json(model_.tokenizer, token.id, token.logprobs->logprob);
      entry["top_logprobs"] = Json::array();
      for (const auto& [id, logprob] : token.logprobs->top) {
        entry["top_logprobs"].push_back(
            logprob_json(model_.tokenizer, id, logprob));
      }
      list.push_back(entry);
    }
    auto& all = choices_[static_cast<std::size_t>(event.choice)].logprobs;
    all.insert(all.end(), list.begin(), list.end());
    return list;
  }

  // Takes a part of the text in; returns the delta that tells of it.
  Json apply(Choice& choice, const ChatEvent& part, int index) {
    using Kind = ChatEvent::Kind;
    switch (part.kind) {
    case Kind::content:
      choice.content += part.text;
      return {{"content", part.text}};
    case Kind::reasoning:
      choice.reasoning += part.text;
      return {{"reasoning_content", part.text}, {"reasoning", part.text}};
    case Kind::tool_call_begin: {
      auto& call = choice.calls[part.index];
      call.id = "call_" + id_.substr(id_.find('-') + 1) + "_" +
          std::to_string(index) + "_" + std::to_string(part.index);
      call.name = part.text;
      auto json = call_json(call);
      json["index"] = part.index;
      return {{"tool_calls", Json::array({json})}};
    }
    case Kind::tool_call_arguments:
      choice.calls[part.index].arguments += part.text;
      return {
          {"tool_calls",
           Json::array(
               {{{"index", part.index},
                 {"function", {{"arguments", part.text}}}}})}};
    case Kind::tool_call_end:
      choice.calls[part.index].complete = true;
      return Json::object();
    case Kind::malformed_tool_call:
      // What the model wrote is shown as it is, never half a call.
      choice.calls.erase(part.index);
      choice.content += part.text;
      return {{"content", part.text}};
    }
    return Json::object();
  }

  Json choice_json(const Choice& choice, std::size_t idx) const {
    Json message{{"role", "assistant"}};
    message["content"] = choice.content.empty() && !choice.calls.empty()
        ? Json(nullptr)
        : Json(choice.content);
    message["refusal"] = nullptr;
    if (!choice.reasoning.empty()) {
      message["reasoning_content"] = choice.reasoning;
      message["reasoning"] = choice.reasoning;
    }
    auto calls = Json::array();
    for (const auto& [index, call] : choice.calls) {
      if (call.complete) {
        calls.push_back(call_json(call));
      }
    }
    if (!calls.empty()) {
      message["tool_calls"] = calls;
    }
    Json json{{"index", idx}, {"message", message}};
    json["logprobs"] = logprobs_
        ? Json{{"content", choice.logprobs}, {"refusal", nullptr}}
        : Json(nullptr);
    json["finish_reason"] = choice.finish_reason;
    return json;
  }

  const ServedModel& model_;
  std::string id_;
  std::int64_t created_ = std::time(nullptr);
  bool include_usage_;
  bool logprobs_;
  std::vector<Choice> choices_;
};

} // namespace

std::unique_ptr<Answer> make_chat_answer(
    const ServedModel& model,
    const CompletionRequest& request,
    const std::string& id) {
  return std::make_unique<ChatAnswer>(model, request, id);
}

} // namespace qwen3_mlx::server
