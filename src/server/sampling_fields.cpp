// SPDX-License-Identifier: MIT
#include "server/sampling_fields.h"

#include <algorithm>
#include <charconv>

#include "server/api_error.h"

namespace qwen3_mlx::server {
namespace {

constexpr double max_float = 1e9;

template <class Value, class Given>
void set(Value& value, const std::optional<Given>& given) {
  if (given) {
    value = static_cast<Value>(*given);
  }
}

SamplingParams default_params(const ServedModel& model) {
  const auto& defaults = model.defaults;
  SamplingParams params;
  // OpenAI's default; the temperature of a checkpoint that does not sample is
  // a left-over.
  params.temperature =
      defaults.do_sample ? defaults.temperature.value_or(1.0F) : 1.0F;
  set(params.top_p, defaults.top_p);
  set(params.top_k, defaults.top_k);
  set(params.min_p, defaults.min_p);
  set(params.repetition_penalty, defaults.repetition_penalty);
  return params;
}

void read_logit_bias(
    Fields& fields,
    SamplingParams& params,
    const ServedModel& model) {
  const auto* bias = fields.object("logit_bias");
  if (bias == nullptr) {
    return;
  }
  if (bias->size() > model.limits.max_logit_bias) {
    fields.fail(
        "logit_bias",
        "expected at most " + std::to_string(model.limits.max_logit_bias) +
            " tokens, found " + std::to_string(bias->size()));
  }
  for (const auto& [key, value] : bias->items()) {
    std::uint32_t id = 0;
    const auto [end, error] =
        std::from_chars(key.data(), key.data() + key.size(), id);
    if (error != std::errc() || end != key.data() + key.size() ||
        id >= static_cast<std::uint32_t>(model.vocab_size)) {
      fields.fail(
          "logit_bias",
          "expected token ids below " + std::to_string(model.vocab_size) +
              " as keys, found \"" + key + "\"");
    }
    if (!value.is_number() || !(std::abs(value.get<double>()) <= 100)) {
      fields.fail(
          "logit_bias",
          "expected numbers from -100 to 100, found " + to_text(value));
    }
    params.logit_bias.emplace_back(id, value.get<float>());
  }
}

std::vector<std::string> read_stops(Fields& fields, const Limits& limits) {
  const auto* stop = fields.find("stop");
  if (stop == nullptr) {
    return {};
  }
  const auto list = stop->is_array() ? *stop : Json::array({*stop});
  if (list.size() > limits.max_stops) {
    fields.fail(
        "stop",
        "expected at most " + std::to_string(limits.max_stops) +
            " strings, found " + std::to_string(list.size()));
  }
  std::vector<std::string> stops;
  for (const auto& entry : list) {
    if (!entry.is_string()) {
      fields.fail(
          "stop",
          std::string("expected a string or a list of strings, found ") +
              kind_of(entry));
    }
    stops.push_back(entry.get<std::string>());
    if (stops.back().empty() || stops.back().size() > limits.max_stop_bytes) {
      fields.fail(
          "stop",
          "expected strings of 1 to " + std::to_string(limits.max_stop_bytes) +
              " bytes, found " + std::to_string(stops.back().size()));
    }
  }
  return stops;
}

// The newer of two names wins, as with OpenAI.
std::optional<std::int64_t> read_max_tokens(Fields& fields) {
  constexpr std::int64_t most = std::int64_t{1} << 31;
  const auto newer = fields.integer("max_completion_tokens", 1, most);
  const auto older = fields.integer("max_tokens", 1, most);
  return newer ? newer : older;
}

} // namespace

engine::Request read_generation(Fields& fields, const ServedModel& model) {
  engine::Request request;
  auto& params = request.sampling.params;
  params = default_params(model);
  set(params.temperature, fields.number("temperature", 0, 2));
  set(params.top_p, fields.number("top_p", 0, 1));
  set(params.min_p, fields.number("min_p", 0, 1));
  // As with llama-server and vLLM, -1 and 0 both mean all.
  if (const auto top_k = fields.integer("top_k", -1, INT32_MAX)) {
    params.top_k =
        static_cast<int>(std::clamp<std::int64_t>(*top_k, 0, model.vocab_size));
  }
  set(params.xtc_probability, fields.number("xtc_probability", 0, 1));
  set(params.xtc_threshold, fields.number("xtc_threshold", 0, 0.5));
  set(params.repetition_penalty, fields.number("repeat_penalty", 0, 10));
  set(params.repetition_penalty, fields.number("repetition_penalty", 0, 10));
  set(params.presence_penalty, fields.number("presence_penalty", -2, 2));
  set(params.frequency_penalty, fields.number("frequency_penalty", -2, 2));
  set(params.penalty_window, fields.integer("repeat_last_n", 0, 4096));
  set(params.penalty_window,
      fields.integer("repetition_context_size", 0, 4096));
  read_logit_bias(fields, params, model);
  if (const auto seed = fields.integer("seed", INT64_MIN, INT64_MAX)) {
    params.seed = static_cast<std::uint64_t>(*seed);
  }
  params.xtc_special_tokens = model.stop_ids;

  request.num_choices = static_cast<int>(
      fields.integer("n", 1, model.limits.max_choices).value_or(1));
  request.stop = read_stops(fields, model.limits);
  if (!fields.boolean("ignore_eos").value_or(false)) {
    request.stop_ids = model.stop_ids;
  }
  request.max_tokens = static_cast<int>(std::min<std::int64_t>(
      read_max_tokens(fields).value_or(model.default_max_tokens), INT32_MAX));
  request.priority =
      static_cast<int>(fields.integer("priority", -100, 100).value_or(0));
  auto limit = model.request_time;
  if (const auto time = fields.number("timeout", 0.001, max_float)) {
    const milliseconds asked(
        static_cast<std::int64_t>(std::min(*time, 1e6) * 1000));
    limit = limit.count() > 0 ? std::min(limit, asked) : asked;
  }
  if (limit.count() > 0) {
    request.deadline = engine::Clock::now() + limit;
  }
  return request;
}

StreamOptions read_stream_options(Fields& fields) {
  StreamOptions options;
  options.stream = fields.boolean("stream").value_or(false);
  if (const auto* object = fields.object("stream_options")) {
    if (!options.stream) {
      fields.fail("stream_options", "only allowed with \"stream\": true");
    }
    Fields inner(*object, "stream_options");
    options.include_usage = inner.boolean("include_usage").value_or(false);
  }
  return options;
}

void read_model(Fields& fields, const ServedModel& model) {
  const auto name = fields.string("model");
  if (name && *name != model.name && *name != "default") {
    throw ApiError(
        404,
        "model: \"" + *name + "\" is not served here; \"" + model.name +
            "\" is",
        "model",
        "model_not_found");
  }
}

void limit_tokens(
    engine::Request& request,
    std::size_t num_prompt,
    const ServedModel& model) {
  const auto most = std::min(model.max_context, model.max_text);
  if (num_prompt >= static_cast<std::size_t>(most)) {
    throw ApiError(
        400,
        "the prompt has " + std::to_string(num_prompt) +
            " tokens; the context of " + std::to_string(model.max_context) +
            " tokens and the key/value memory of " +
            std::to_string(model.max_text) + " leave no room for an answer",
        "messages",
        "context_length_exceeded");
  }
  const int room = most - static_cast<int>(num_prompt);
  request.max_tokens =
      request.max_tokens > 0 ? std::min(request.max_tokens, room) : room;
}

void read_others(Fields& fields) {
  for (const char* name :
       {"user",
        "metadata",
        "store",
        "service_tier",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_retention",
        "prediction",
        "cache_prompt"}) {
    fields.ignore(name);
  }
  const std::string unsupported = "not supported by this server; leave it out";
  fields.refuse(
      "response_format",
      "only {\"type\": \"text\"} is supported",
      {Json{{"type", "text"}}});
  fields.refuse(
      "modalities", "only text is supported", {Json::array({"text"})});
  for (const char* name :
       {"audio",
        "functions",
        "function_call",
        "grammar",
        "json_schema",
        "guided_json",
        "guided_regex",
        "guided_choice",
        "guided_grammar",
        "structured_outputs",
        "web_search_options",
        "verbosity",
        "reasoning_effort",
        "adapters",
        "draft_model",
        "lora",
        "logits_processors",
        "mirostat",
        "dry_multiplier",
        "typical_p",
        "bad_words"}) {
    fields.refuse(name, unsupported);
  }
  fields.refuse("use_beam_search", unsupported, {false});
  fields.refuse("min_tokens", unsupported, {0});
}

} // namespace qwen3_mlx::server
