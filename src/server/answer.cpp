// SPDX-License-Identifier: MIT
// What chat and text answers have in common.
#include "server/answer.h"

#include <algorithm>

#include "base/utf8.h"
#include "server/api_error.h"

namespace qwen3_mlx::server {
namespace {

double rate(int count, double seconds) {
  return seconds > 0 ? count / seconds : 0.0;
}

double per_token_ms(int count, double seconds) {
  return count > 0 ? seconds * 1e3 / count : 0.0;
}

HttpResponse failure_of(const engine::Event& event) {
  switch (*event.finish) {
  case engine::Finish::deadline:
    return error_response(ApiError(408, event.error, {}, "timeout"));
  case engine::Finish::shutdown:
    return error_response(ApiError(503, event.error, {}, "shutting_down"));
  default:
    return error_response(ApiError(500, event.error));
  }
}

} // namespace

void Answer::note_end(const engine::Event& event) {
  --num_open_;
  const auto& usage = event.usage;
  usage_.num_generated += usage.num_generated;
  // Choices of one prompt share it.
  if (event.choice == 0) {
    usage_.num_prompt += usage.num_prompt;
    usage_.num_cached += usage.num_cached;
  }
  usage_.queue_seconds = std::max(usage_.queue_seconds, usage.queue_seconds);
  usage_.prompt_seconds = std::max(usage_.prompt_seconds, usage.prompt_seconds);
  usage_.generation_seconds =
      std::max(usage_.generation_seconds, usage.generation_seconds);
  if (*event.finish != engine::Finish::stop &&
      *event.finish != engine::Finish::length && !failure_) {
    failure_ = failure_of(event);
  }
}

std::string sse(const Json& json) {
  return "data: " + to_text(json) + "\n\n";
}

std::string sse_ping() {
  return ": ping\n\n";
}

Json usage_json(const engine::Usage& usage) {
  return {
      {"prompt_tokens", usage.num_prompt},
      {"completion_tokens", usage.num_generated},
      {"total_tokens", usage.num_prompt + usage.num_generated},
      {"prompt_tokens_details", {{"cached_tokens", usage.num_cached}}}};
}

Json timings_json(const engine::Usage& usage) {
  const int computed = usage.num_prompt - usage.num_cached;
  // The first token belongs to the prompt's time.
  const int decoded = std::max(usage.num_generated - 1, 0);
  return {
      {"cache_n", usage.num_cached},
      {"prompt_n", computed},
      {"prompt_ms", usage.prompt_seconds * 1e3},
      {"prompt_per_token_ms", per_token_ms(computed, usage.prompt_seconds)},
      {"prompt_per_second", rate(computed, usage.prompt_seconds)},
      {"predicted_n", usage.num_generated},
      {"predicted_ms", usage.generation_seconds * 1e3},
      {"predicted_per_token_ms",
       per_token_ms(decoded, usage.generation_seconds)},
      {"predicted_per_second", rate(decoded, usage.generation_seconds)},
      {"queue_ms", usage.queue_seconds * 1e3}};
}

std::string finish_name(engine::Finish finish) {
  return finish == engine::Finish::stop ? "stop" : "length";
}

std::string token_text(const Tokenizer& tokenizer, std::uint32_t id) {
  return replace_invalid_utf8(tokenizer.token_bytes(id));
}

Json token_bytes(const Tokenizer& tokenizer, std::uint32_t id) {
  auto bytes = Json::array();
  for (const char byte : tokenizer.token_bytes(id)) {
    bytes.push_back(static_cast<unsigned char>(byte));
  }
  return bytes;
}

} // namespace qwen3_mlx::server
