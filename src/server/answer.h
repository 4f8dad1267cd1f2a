// SPDX-License-Identifier: MIT
// Turns what the engine tells into what the client gets: server-sent events
// while it comes, or one JSON object at the end. Belongs to one connection.
#pragma once

#include <memory>
#include <string>

#include "engine/request.h"
#include "server/completion_request.h"
#include "server/http.h"

namespace qwen3_mlx::server {

class Answer {
 public:
  virtual ~Answer() = default;

  bool streams() const {
    return streams_;
  }
  /// Takes an event of prompt number `prompt`; returns what a streaming client
  /// is sent for it.
  virtual std::string take(int prompt, const engine::Event& event) = 0;
  /// Whether all choices have ended.
  bool done() const {
    return num_open_ == 0;
  }
  /// What ended a choice that could not be finished.
  const std::optional<HttpResponse>& failure() const {
    return failure_;
  }
  /// The end of a stream: usage if it was asked for, and [DONE].
  virtual std::string last_chunks() = 0;
  /// The whole, for clients that do not stream.
  virtual HttpResponse response() = 0;

  const engine::Usage& usage() const {
    return usage_;
  }

 protected:
  Answer(bool streams, int num_choices)
      : streams_(streams), num_open_(num_choices) {}
  /// Counts the end of a choice; notes what it says if it is a failure.
  void note_end(const engine::Event& event);

 private:
  bool streams_;
  int num_open_;
  std::optional<HttpResponse> failure_;
  engine::Usage usage_; // of all choices
};

std::unique_ptr<Answer> make_chat_answer(
    const ServedModel& model,
    const CompletionRequest& request,
    const std::string& id);
std::unique_ptr<Answer> make_text_answer(
    const ServedModel& model,
    const CompletionRequest& request,
    const std::string& id);

/// "data: <json>\n\n"
std::string sse(const Json& json);
/// The comment that keeps an idle stream open.
std::string sse_ping();

/// {"prompt_tokens", "completion_tokens", "total_tokens",
///  "prompt_tokens_details": {"cached_tokens"}}
Json usage_json(const engine::Usage& usage);
/// As llama-server has it.
Json timings_json(const engine::Usage& usage);
std::string finish_name(engine::Finish finish);
/// The text of a token, as far as it is UTF-8, and its bytes.
std::string token_text(const Tokenizer& tokenizer, std::uint32_t id);
Json token_bytes(const Tokenizer& tokenizer, std::uint32_t id);

} // namespace qwen3_mlx::server
