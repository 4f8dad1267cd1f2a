// SPDX-License-Identifier: MIT

#include "cli/sampling_options.h"

#include <limits>
#include <utility>

#include "cli/numbers.h"

namespace qwen3_mlx::cli {
namespace {

constexpr const char* group = "Sampling";

std::pair<std::uint32_t, float> parse_bias(const std::string& text) {
  // llama.cpp's form is ID+BIAS or ID-BIAS; the sign is then the separator.
  const auto split = text.find_first_of("=:+-");
  const auto id = parse_token_id(text.substr(0, split));
  float bias = 0;
  const auto value_at =
      split == std::string::npos || text[split] == '-' ? split : split + 1;
  if (split == std::string::npos || !id.has_value() ||
      !CLI::detail::lexical_cast(text.substr(value_at), bias)) {
    throw CLI::ValidationError(
        "--logit-bias",
        "expected ID=BIAS, as in 42=-1.5, found '" + text + "'");
  }
  return {*id, bias};
}

} // namespace

void add_sampling_options(CLI::App& command, SamplingOptions& options) {
  const auto add =
      [&command](
          const char* names, auto& value, const char* type, const char* help) {
        return command.add_option(names, value, help)
            ->type_name(type)
            ->group(group);
      };
  const auto add_real = [&add](
                            const char* names,
                            std::optional<float>& value,
                            const CLI::Validator& range,
                            const char* type,
                            const char* help) {
    add(names, value, type, help)->check(range);
  };
  const auto add_whole = [&add](
                             const char* names,
                             auto& value,
                             const CLI::Validator& range,
                             const char* type,
                             const char* help) {
    add(names, value, type, help)->transform(range);
  };
  add_real(
      "--temp,--temperature",
      options.temperature,
      real_number(0),
      "NUMBER",
      "0 takes the most likely token");
  add_real(
      "--top-p",
      options.top_p,
      real_number(0, 1),
      "P",
      "Sample from the most likely tokens that make up P");
  add_whole(
      "--top-k",
      options.top_k,
      whole_number(0),
      "K",
      "Sample from the K most likely; 0: all");
  add_real(
      "--min-p",
      options.min_p,
      real_number(0, 1),
      "P",
      "Drop tokens below P times the best one's probability");
  add_whole(
      "--min-tokens-to-keep",
      options.min_tokens_to_keep,
      whole_number(1),
      "N",
      "What --min-p always leaves");
  add_real(
      "--xtc-probability",
      options.xtc_probability,
      real_number(0, 1),
      "P",
      "Chance to exclude the top choices");
  add_real(
      "--xtc-threshold",
      options.xtc_threshold,
      real_number(0, 0.5),
      "P",
      "A top choice is one above this probability");
  add_real(
      "--repetition-penalty,--repeat-penalty",
      options.repetition_penalty,
      real_number(0),
      "FACTOR",
      "Divide the logits of recent tokens; 1: off");
  add_real(
      "--presence-penalty",
      options.presence_penalty,
      real_number(),
      "NUMBER",
      "Subtracted once from recent tokens' logits");
  add_real(
      "--frequency-penalty",
      options.frequency_penalty,
      real_number(),
      "NUMBER",
      "Subtracted for each recent occurrence");
  add_whole(
      "--repetition-context-size,--repeat-last-n",
      options.penalty_window,
      whole_number(0, 4096), // as validate() of the library has it
      "N",
      "What counts as recent (default: 20 tokens, at most 4096)");
  add("--logit-bias",
      options.logit_bias,
      "ID=BIAS",
      "Added to a token's logit; may be repeated")
      ->allow_extra_args(false);
  add_whole(
      "--seed",
      options.seed,
      whole_number(0, std::numeric_limits<std::uint64_t>::max()),
      "N",
      "The same seed gives the same text");
}

SamplingParams sampling_params(
    const SamplingOptions& options,
    const GenerationConfig& defaults,
    int vocab_size) {
  SamplingParams params;
  const auto pick = [](auto& value, const auto& option, const auto& fallback) {
    if (option.has_value()) {
      value = *option;
    } else if (fallback.has_value()) {
      value = *fallback;
    }
  };
  const auto set = [](auto& value, const auto& option) {
    if (option.has_value()) {
      value = *option;
    }
  };
  // The temperature of a checkpoint that does not sample is a left-over.
  pick(
      params.temperature,
      options.temperature,
      defaults.do_sample ? defaults.temperature : std::optional<float>(0.0F));
  pick(params.top_p, options.top_p, defaults.top_p);
  pick(params.min_p, options.min_p, defaults.min_p);
  pick(params.top_k, options.top_k, defaults.top_k);
  pick(
      params.repetition_penalty,
      options.repetition_penalty,
      defaults.repetition_penalty);
  set(params.xtc_probability, options.xtc_probability);
  set(params.xtc_threshold, options.xtc_threshold);
  set(params.min_tokens_to_keep, options.min_tokens_to_keep);
  set(params.presence_penalty, options.presence_penalty);
  set(params.frequency_penalty, options.frequency_penalty);
  set(params.penalty_window, options.penalty_window);
  for (const auto& text : options.logit_bias) {
    const auto bias = parse_bias(text);
    if (bias.first >= static_cast<std::uint32_t>(vocab_size)) {
      throw CLI::ValidationError(
          "--logit-bias",
          "expected a token id below " + std::to_string(vocab_size) +
              ", found '" + text + "'");
    }
    params.logit_bias.push_back(bias);
  }
  params.seed = options.seed;
  return params;
}

} // namespace qwen3_mlx::cli
