// SPDX-License-Identifier: MIT

#include "cli/answer.h"

#include <mlx/memory.h>

#include <algorithm>

#include <CLI/CLI.hpp>

#include "cli/numbers.h"
#include "cli/terminal.h"
#include "qwen3_mlx/error.h"

namespace qwen3_mlx::cli {

namespace {

Answer go_on(
    const Model& model,
    const Tokenizer* tokenizer,
    HeldCache& held,
    std::span<const std::uint32_t> prompt,
    const SamplingParams& params,
    const GenerateOptions& options,
    const TextSink& sink) {
  Answer answer;
  answer.num_cached_tokens = held.keep_prefix_of(prompt);
  const auto rest = prompt.subspan(answer.num_cached_tokens);

  std::optional<StreamingDetokenizer> detokenizer;
  if (tokenizer != nullptr) {
    detokenizer.emplace(*tokenizer);
  }
  const auto emit = [&](const std::string& text) {
    answer.text += text;
    if (sink && !text.empty()) {
      sink(text);
    }
  };

  const auto& stops = *options.stop_ids;
  auto with_history = options;
  const auto held_tokens = prompt.first(answer.num_cached_tokens);
  with_history.history.assign(held_tokens.begin(), held_tokens.end());
  Generate tokens(model, held.cache(), rest, params, with_history);
  for (const std::uint32_t id : tokens) {
    answer.ids.push_back(id);
    if (options.logprobs) {
      answer.logprobs.push_back(tokens.logprobs());
    }
    const bool ends = std::find(stops.begin(), stops.end(), id) != stops.end();
    if (detokenizer && !ends) {
      emit(detokenizer->add(id));
    }
  }
  if (detokenizer) {
    emit(detokenizer->finish());
  }
  answer.finish_reason = tokens.finish_reason();
  answer.timings = tokens.timings();
  answer.seed = tokens.seed();

  std::vector<std::uint32_t> seen(rest.begin(), rest.end());
  seen.insert(seen.end(), answer.ids.begin(), answer.ids.end());
  held.extend(seen);
  return answer;
}

} // namespace

Answer generate_answer(
    const Model& model,
    const Tokenizer* tokenizer,
    HeldCache& held,
    std::span<const std::uint32_t> prompt,
    const SamplingParams& params,
    const GenerateOptions& options,
    const TextSink& sink) {
  try {
    return go_on(model, tokenizer, held, prompt, params, options, sink);
  } catch (...) {
    held.forget();
    throw;
  }
}

std::vector<std::uint32_t> stop_ids(
    const Model& model,
    const Tokenizer* tokenizer,
    const std::vector<std::string>& extra,
    bool ignore_eos) {
  std::vector<std::uint32_t> ids;
  const auto vocab_size = static_cast<std::uint32_t>(model.args().vocab_size);
  if (!ignore_eos) {
    ids = model.eos_token_ids();
    if (tokenizer != nullptr && tokenizer->eos_id().has_value()) {
      ids.push_back(*tokenizer->eos_id());
    }
    // A token that the model cannot make ends nothing.
    std::erase_if(ids, [&](std::uint32_t each) { return each >= vocab_size; });
  }
  for (const auto& text : extra) {
    const auto token =
        tokenizer == nullptr ? std::nullopt : tokenizer->token_to_id(text);
    const auto id = token.has_value() ? token : parse_token_id(text);
    if (!id.has_value()) {
      throw CLI::ValidationError(
          "--extra-eos-token", "'" + text + "' is no token of the vocabulary");
    }
    if (*id >= vocab_size) {
      throw CLI::ValidationError(
          "--extra-eos-token",
          "'" + text + "' is outside the model's vocabulary of " +
              std::to_string(vocab_size) + " tokens");
    }
    ids.push_back(*id);
  }
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
  return ids;
}

void check_vocabulary(
    std::span<const std::uint32_t> ids,
    const Model& model,
    const std::filesystem::path& path) {
  const auto vocab_size = static_cast<std::uint32_t>(model.args().vocab_size);
  const auto largest = std::max_element(ids.begin(), ids.end());
  if (largest != ids.end() && *largest >= vocab_size) {
    throw FileError(
        path,
        "the tokenizer gives the token id " + std::to_string(*largest) +
            ", but the model's vocabulary has " + std::to_string(vocab_size) +
            " tokens; use the tokenizer that came with the model");
  }
}

std::string describe_timings(const Answer& answer) {
  const auto& timings = answer.timings;
  std::string text = "Prompt: " + std::to_string(timings.prompt_tokens) +
      " tokens, " + fixed(timings.prompt_tokens_per_second(), 1) +
      " tokens-per-sec";
  if (answer.num_cached_tokens > 0) {
    text += " (" + std::to_string(answer.num_cached_tokens) +
        " more were in the cache)";
  }
  text += "\nGeneration: " + std::to_string(timings.generated_tokens) +
      " tokens, " + fixed(timings.generation_tokens_per_second(), 1) +
      " tokens-per-sec\nPeak memory: " +
      fixed(static_cast<double>(mx::get_peak_memory()) / 1e9, 3) + " GB\n";
  return text;
}

Json timings_json(const Answer& answer) {
  const auto& timings = answer.timings;
  return {
      {"prompt_tokens", timings.prompt_tokens},
      {"cached_tokens", answer.num_cached_tokens},
      {"prompt_seconds", timings.prompt_seconds},
      {"prompt_tokens_per_second", timings.prompt_tokens_per_second()},
      {"generated_tokens", timings.generated_tokens},
      {"generation_seconds", timings.generation_seconds},
      {"generation_tokens_per_second", timings.generation_tokens_per_second()},
      {"peak_memory_bytes", mx::get_peak_memory()}};
}

} // namespace qwen3_mlx::cli
