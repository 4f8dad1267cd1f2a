// SPDX-License-Identifier: MIT
// /v1/completions.
#include "server/api_error.h"
#include "server/completion_request.h"
#include "server/fields.h"
#include "server/sampling_fields.h"

namespace qwen3_mlx::server {
namespace {

using Ids = std::vector<std::uint32_t>;

Ids read_ids(const Json& list, const std::string& place, int vocab_size) {
  Ids ids;
  for (const auto& entry : list) {
    if (!entry.is_number_unsigned() ||
        entry.get<std::uint64_t>() >= static_cast<std::uint64_t>(vocab_size)) {
      throw ApiError(
          400,
          place + ": expected token ids below " + std::to_string(vocab_size) +
              ", found " + to_text(entry),
          "prompt");
    }
    ids.push_back(entry.get<std::uint32_t>());
  }
  return ids;
}

Ids read_prompt(
    const Json& prompt,
    const std::string& place,
    const ServedModel& model) {
  if (prompt.is_string()) {
    return model.tokenizer.encode(
        prompt.get_ref<const std::string&>(), /* add_special_tokens */ true);
  }
  if (prompt.is_array()) {
    return read_ids(prompt, place, model.vocab_size);
  }
  throw ApiError(
      400,
      place + ": expected a string or a list of token ids, found " +
          kind_of(prompt),
      "prompt");
}

// A string, strings, token ids, or lists of token ids.
std::vector<Ids> read_prompts(Fields& fields, const ServedModel& model) {
  const auto* prompt = fields.find("prompt");
  if (prompt == nullptr) {
    fields.fail("prompt", "is missing");
  }
  const bool is_one =
      !prompt->is_array() || prompt->empty() || prompt->front().is_number();
  const auto list = is_one ? Json::array({*prompt}) : *prompt;
  if (list.size() > model.limits.max_prompts) {
    fields.fail(
        "prompt",
        "expected at most " + std::to_string(model.limits.max_prompts) +
            " prompts, found " + std::to_string(list.size()));
  }
  std::vector<Ids> prompts;
  for (std::size_t idx = 0; idx < list.size(); ++idx) {
    const auto place =
        is_one ? "prompt" : "prompt[" + std::to_string(idx) + "]";
    prompts.push_back(read_prompt(list[idx], place, model));
    if (prompts.back().empty()) {
      throw ApiError(400, place + ": expected at least one token", "prompt");
    }
  }
  return prompts;
}

} // namespace

CompletionRequest
parse_text_request(const Json& body, const ServedModel& model) {
  Fields fields(body);
  read_model(fields, model);
  CompletionRequest request;
  request.stream = read_stream_options(fields);
  auto generation = read_generation(fields, model);
  if (const auto top = fields.integer("logprobs", 0, 5)) {
    request.logprobs = true;
    request.top_logprobs = static_cast<int>(*top);
  }
  generation.sampling.logprobs = request.logprobs;
  generation.sampling.top_logprobs = request.top_logprobs;
  fields.refuse("echo", "not supported by this server", {false});
  fields.refuse("suffix", "not supported by this server", {""});
  fields.refuse("best_of", "only 1 is supported; use n", {1});
  read_others(fields);
  for (auto& prompt : read_prompts(fields, model)) {
    auto one = generation;
    limit_tokens(one, prompt.size(), model);
    one.prompt = std::move(prompt);
    request.prompts.push_back(std::move(one));
  }
  request.unknown_fields = fields.unknown();
  return request;
}

} // namespace qwen3_mlx::server
