// SPDX-License-Identifier: MIT
// text_completion objects and chunks.
#include <algorithm>
#include <ctime>

#include "server/answer.h"

namespace qwen3_mlx::server {
namespace {

// Of UTF-8.
bool starts_character(char byte) {
  return (static_cast<unsigned char>(byte) & 0xC0U) != 0x80U;
}

struct Choice {
  std::string text;
  std::string finish_reason;
  Json tokens = Json::array();
  Json token_logprobs = Json::array();
  Json top_logprobs = Json::array();
  Json text_offset = Json::array();
  std::size_t offset = 0; // characters of the tokens so far

  Json logprobs() const {
    return {
        {"tokens", tokens},
        {"token_logprobs", token_logprobs},
        {"top_logprobs", top_logprobs},
        {"text_offset", text_offset}};
  }
};

class TextAnswer final : public Answer {
 public:
  TextAnswer(
      const ServedModel& model,
      const CompletionRequest& request,
      const std::string& id)
      : Answer(
            request.stream.stream,
            static_cast<int>(request.prompts.size()) *
                request.prompts.front().num_choices),
        model_(model), id_("cmpl-" + id),
        num_choices_(request.prompts.front().num_choices),
        include_usage_(request.stream.include_usage),
        logprobs_(request.logprobs),
        choices_(
            request.prompts.size() * static_cast<std::size_t>(num_choices_)) {}

  std::string take(int prompt, const engine::Event& event) override {
    const auto idx = static_cast<std::size_t>(prompt) *
            static_cast<std::size_t>(num_choices_) +
        static_cast<std::size_t>(event.choice);
    auto& choice = choices_.at(idx);
    choice.text += event.text;
    Choice part;
    if (logprobs_) {
      part.offset = choice.offset;
      add_logprobs(part, event);
      add_logprobs(choice, event);
    }
    std::string out;
    if (!event.text.empty() || !part.tokens.empty()) {
      part.text = event.text;
      out += chunk(idx, part);
    }
    if (event.finish) {
      note_end(event);
      choice.finish_reason = finish_name(*event.finish);
      if (!failure()) {
        Choice end;
        end.finish_reason = choice.finish_reason;
        out += chunk(idx, end);
      }
    }
    return streams() ? out : std::string();
  }

  std::string last_chunks() override {
    std::string out;
    if (include_usage_) {
      auto object = base();
      object["choices"] = Json::array();
      object["usage"] = usage_json(usage());
      object["timings"] = timings_json(usage());
      out += sse(object);
    }
    return out + "data: [DONE]\n\n";
  }

  HttpResponse response() override {
    auto object = base();
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
  Json base() const {
    return {
        {"id", id_},
        {"object", "text_completion"},
        {"created", created_},
        {"model", model_.name},
        {"system_fingerprint", model_.fingerprint}};
  }

  Json choice_json(const Choice& choice, std::size_t idx) const {
    Json json{{"index", idx}, {"text", choice.text}};
    json["logprobs"] =
        logprobs_ && !choice.tokens.empty() ? choice.logprobs() : Json(nullptr);
    json["finish_reason"] = choice.finish_reason.empty()
        ? Json(nullptr)
        : Json(choice.finish_reason);
    return json;
  }

  std::string chunk(std::size_t idx, const Choice& part) const {
    auto object = base();
    object["choices"] = Json::array({choice_json(part, idx)});
    return sse(object);
  }

  void add_logprobs(Choice& choice, const engine::Event& event) const {
    for (const auto& token : event.tokens) {
      if (!token.logprobs) {
        continue;
      }
      const auto text = token_text(model_.tokenizer, token.id);
      choice.tokens.push_back(text);
      choice.token_logprobs.push_back(token.logprobs->logprob);
      auto top = Json::object();
      for (const auto& [id, logprob] : token.logprobs->top) {
        top[token_text(model_.tokenizer, id)] = logprob;
      }
      choice.top_logprobs.push_back(top);
      choice.text_offset.push_back(choice.offset);
      choice.offset += static_cast<std::size_t>(
          std::ranges::count_if(text, starts_character));
    }
  }

  const ServedModel& model_;
  std::string id_;
  std::int64_t created_ = std::time(nullptr);
  int num_choices_;
  bool include_usage_;
  bool logprobs_;
  std::vector<Choice> choices_;
};

} // namespace

std::unique_ptr<Answer> make_text_answer(
    const ServedModel& model,
    const CompletionRequest& request,
    const std::string& id) {
  return std::make_unique<TextAnswer>(model, request, id);
}

} // namespace qwen3_mlx::server
