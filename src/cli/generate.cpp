// SPDX-License-Identifier: MIT
// qwen3-mlx generate: one prompt, one answer.

#include <initializer_list>
#include <iostream>
#include <memory>

#include "cli/answer.h"
#include "cli/cache_options.h"
#include "cli/commands.h"
#include "cli/interrupt.h"
#include "cli/model_options.h"
#include "cli/numbers.h"
#include "cli/sampling_options.h"
#include "cli/terminal.h"
#include "qwen3_mlx/error.h"
#include "qwen3_mlx/prompt_cache.h"

namespace qwen3_mlx::cli {
namespace {

constexpr const char* examples =
    "\nThe answer goes to standard output as it comes; statistics and "
    "progress\n"
    "go to standard error, when it is a terminal or with --verbose. One line\n"
    "end at the end of a prompt from a file or from standard input is "
    "dropped.\n"
    "\nExamples:\n"
    "  qwen3-mlx generate --model DIR \"What is the capital of France?\"\n"
    "  cat notes.txt | qwen3-mlx generate --model DIR --sys \"Summarize.\" -\n"
    "  qwen3-mlx generate --model DIR --prompt-ids 1,2,3 -m 8 --temp 0 --json";

struct GenerateCommand {
  ModelOptions model;
  SamplingOptions sampling;
  KvOptions kv;
  TemplateOptions chat_template;

  std::optional<std::string> prompt;
  std::filesystem::path prompt_file;
  std::optional<std::string> prompt_ids;
  std::string system_prompt;
  std::string prefill_response;
  bool ignore_chat_template = false;
  std::filesystem::path prompt_cache_file;

  int max_tokens = 256;
  int prefill_step_size = 2048;
  std::vector<std::string> extra_eos_tokens;
  bool ignore_eos = false;

  bool verbose = false;
  bool json = false;
  std::optional<int> top_logprobs;
};

void add_prompt_options(CLI::App& command, GenerateCommand& options) {
  const char* group = "Prompt";
  auto* prompt = command
                     .add_option(
                         "prompt,-p,--prompt",
                         options.prompt,
                         "The prompt; - reads it from standard input")
                     ->type_name("TEXT")
                     ->group(group);
  auto* file = command
                   .add_option(
                       "-f,--file",
                       options.prompt_file,
                       "Read the prompt from a file; - is standard input")
                   ->type_name("FILE")
                   ->excludes(prompt)
                   ->group(group);
  command
      .add_option(
          "--prompt-ids",
          options.prompt_ids,
          "Token ids instead of a prompt, as in 1,2,3")
      ->type_name("IDS")
      ->excludes(prompt)
      ->excludes(file)
      ->group(group);
  command
      .add_option(
          "--system-prompt,--sys",
          options.system_prompt,
          "What the system message says")
      ->type_name("TEXT")
      ->group(group);
  command
      .add_option(
          "--prefill-response",
          options.prefill_response,
          "How the answer begins")
      ->type_name("TEXT")
      ->group(group);
  command
      .add_flag(
          "--ignore-chat-template",
          options.ignore_chat_template,
          "Give the model the prompt as it is")
      ->group(group);
  command
      .add_flag(
          "--use-default-chat-template",
          options.chat_template.use_default,
          "Use ChatML, whatever the model has")
      ->group(group);
  command
      .add_option(
          "--chat-template-file",
          options.chat_template.file,
          "Use this Jinja template")
      ->type_name("FILE")
      ->excludes("--use-default-chat-template")
      ->group(group);
  command
      .add_option(
          "--chat-template-config,--chat-template-kwargs",
          options.chat_template.config,
          "Variables of the template, a JSON object")
      ->type_name("JSON")
      ->group(group);
}

/// Options that would do nothing beside others are mistakes.
void exclude_what_has_no_effect(CLI::App& command) {
  const auto exclude =
      [&command](const char* name, std::initializer_list<const char*> others) {
        for (const char* other : others) {
          command.get_option(name)->excludes(command.get_option(other));
        }
      };
  exclude(
      "--prompt-ids",
      {"--system-prompt",
       "--prefill-response",
       "--use-default-chat-template",
       "--chat-template-file",
       "--chat-template-config"});
  exclude(
      "--ignore-chat-template",
      {"--system-prompt",
       "--use-default-chat-template",
       "--chat-template-file",
       "--chat-template-config"});
  exclude(
      "--prompt-cache-file",
      {"--system-prompt",
       "--max-kv-size",
       "--kv-bits",
       "--kv-group-size",
       "--quantized-kv-start"});
}

void add_answer_options(CLI::App& command, GenerateCommand& options) {
  const char* group = "Answer";
  command
      .add_option(
          "-m,--max-tokens,-n,--predict,--n-predict",
          options.max_tokens,
          "Most tokens to generate")
      ->capture_default_str()
      ->type_name("N")
      ->transform(whole_number(1))
      ->group(group);
  command
      .add_option(
          "--extra-eos-token",
          options.extra_eos_tokens,
          "One more token, or its id, that ends the answer")
      ->type_name("TOKEN")
      ->allow_extra_args(false)
      ->group(group);
  command
      .add_flag(
          "--ignore-eos",
          options.ignore_eos,
          "Go on after the end of the text; --extra-eos-token still ends it")
      ->group(group);
  command
      .add_option(
          "--prefill-step-size,-b,--batch-size",
          options.prefill_step_size,
          "Prompt tokens read at once")
      ->capture_default_str()
      ->type_name("N")
      ->transform(whole_number(1))
      ->group(group);

  const char* output = "Output";
  command
      .add_flag("--verbose,!--no-verbose", options.verbose, "Print statistics")
      ->group(output);
  command
      .add_flag(
          "--json",
          options.json,
          "Print one JSON object: ids, text, logprobs ...")
      ->group(output);
  command
      .add_option(
          "--top-logprobs",
          options.top_logprobs,
          "With --json: this many likely tokens at each place")
      ->type_name("K")
      ->transform(whole_number(0))
      ->group(output);
}

/// Without one line end at its end.
std::string chomp(std::string text) {
  if (text.ends_with('\n')) {
    text.pop_back();
  }
  if (text.ends_with('\r')) {
    text.pop_back();
  }
  return text;
}

std::string prompt_text(const GenerateCommand& options) {
  if (!options.prompt_file.empty()) {
    return chomp(read_text(options.prompt_file));
  }
  if (options.prompt.has_value() && *options.prompt != "-") {
    return *options.prompt;
  }
  if (!options.prompt.has_value() && stdin_is_terminal()) {
    throw CLI::ValidationError(
        "prompt", "no prompt; give one, or - to read it from standard input");
  }
  return chomp(read_stdin());
}

/// All ids the model is to have seen before it answers: those of a saved prompt
/// first, if there is one.
std::vector<std::uint32_t> prompt_tokens(
    const GenerateCommand& options,
    const Tokenizer* tokenizer,
    const std::vector<std::uint32_t>& saved) {
  auto ids = saved;
  const auto append = [&ids](const std::vector<std::uint32_t>& more) {
    ids.insert(ids.end(), more.begin(), more.end());
  };
  if (options.prompt_ids.has_value()) {
    append(parse_ids(*options.prompt_ids, "--prompt-ids"));
    return ids;
  }
  if (tokenizer == nullptr) {
    throw FileError(
        options.model.model,
        "has no tokenizer; without one only --prompt-ids works");
  }
  const auto prompt = prompt_text(options);
  if (options.ignore_chat_template) {
    const auto bos = tokenizer->bos_token();
    const bool add_special =
        saved.empty() && !(bos.has_value() && prompt.starts_with(*bos));
    append(tokenizer->encode(prompt + options.prefill_response, add_special));
    return ids;
  }
  const PromptRenderer renderer(options.model.model, options.chat_template);
  warn_of_fallback(renderer);
  const auto messages = make_messages(options.system_prompt, prompt);
  // A saved prompt is the beginning of this user's message.
  const auto text = saved.empty() ? renderer.render(messages)
                                  : renderer.render_from_content(messages);
  append(tokenizer->encode(text + options.prefill_response));
  return ids;
}

Json to_json(const TokenLogprobs& logprobs) {
  auto top = Json::array();
  for (const auto& [id, logprob] : logprobs.top) {
    top.push_back({{"id", id}, {"logprob", logprob}});
  }
  return {{"id", logprobs.id}, {"logprob", logprobs.logprob}, {"top", top}};
}

void print_json(
    const std::vector<std::uint32_t>& prompt,
    const Tokenizer* tokenizer,
    const Answer& answer) {
  Json object;
  object["prompt_ids"] = prompt;
  object["ids"] = answer.ids;
  object["text"] = tokenizer == nullptr ? Json(nullptr) : Json(answer.text);
  object["finish_reason"] = to_string(*answer.finish_reason);
  object["logprobs"] = Json::array();
  for (const auto& logprobs : answer.logprobs) {
    object["logprobs"].push_back(to_json(logprobs));
  }
  object["seed"] = answer.seed;
  object["timings"] = timings_json(answer);
  std::cout << object.dump(-1, ' ', false, Json::error_handler_t::replace)
            << '\n';
}

void run(const GenerateCommand& options, Exit& exit) {
  if (options.top_logprobs.has_value() && !options.json) {
    throw CLI::RequiresError("--top-logprobs", "--json");
  }
  const auto tokenizer = find_tokenizer(options.model.model);
  const Tokenizer* const tokens = tokenizer ? &*tokenizer : nullptr;
  const auto model = load_with_progress(options.model);

  std::optional<HeldCache> held;
  if (options.prompt_cache_file.empty()) {
    held.emplace(model.make_cache(cache_options(options.kv)));
  } else {
    auto saved = load_prompt_cache(options.prompt_cache_file, model);
    held.emplace(std::move(saved.cache), std::move(saved.tokens));
  }
  const auto prompt = prompt_tokens(options, tokens, held->ids());

  GenerateOptions generate;
  generate.max_tokens = options.max_tokens;
  generate.prefill_step_size = options.prefill_step_size;
  generate.stop_ids =
      stop_ids(model, tokens, options.extra_eos_tokens, options.ignore_eos);
  generate.logprobs = options.json;
  generate.top_logprobs = options.top_logprobs.value_or(0);
  if (generate.top_logprobs > model.args().vocab_size) {
    throw CLI::ValidationError(
        "--top-logprobs",
        "the model's vocabulary has only " +
            std::to_string(model.args().vocab_size) + " tokens");
  }
  auto params = sampling_params(
      options.sampling, model.generation_config(), model.args().vocab_size);
  params.xtc_special_tokens = *generate.stop_ids;

  const InterruptScope interrupt;
  generate.cancelled = [&interrupt] { return interrupt.requested(); };
  ProgressBar bar("Reading the prompt", ProgressBar::Unit::count);
  generate.prompt_progress = [&bar](int done, int total) {
    if (done == total) {
      bar.clear();
    } else {
      bar.update(
          static_cast<std::uint64_t>(done), static_cast<std::uint64_t>(total));
    }
  };

  const bool streams = !options.json;
  if (streams) {
    std::cout << options.prefill_response;
  }
  const auto answer = generate_answer(
      model,
      tokens,
      *held,
      prompt,
      params,
      generate,
      [&](std::string_view text) {
        if (streams) {
          std::cout << text << std::flush;
        }
      });
  if (options.json) {
    print_json(prompt, tokens, answer);
  } else if (tokens == nullptr) {
    for (std::size_t index = 0; index < answer.ids.size(); ++index) {
      std::cout << (index == 0 ? "" : ",") << answer.ids[index];
    }
    std::cout << '\n';
  } else if (!answer.text.ends_with('\n')) {
    std::cout << '\n';
  }
  std::cout.flush();
  if (options.verbose ||
      (streams && stdout_is_terminal() && stderr_is_terminal())) {
    std::cerr << "==========\n" << describe_timings(answer);
  }
  if (answer.finish_reason == FinishReason::cancelled) {
    exit.code = Exit::interrupted;
  }
}

} // namespace

void add_generate(CLI::App& app, Exit& exit) {
  auto options = std::make_shared<GenerateCommand>();
  auto* command =
      app.add_subcommand("generate", "Answer one prompt, or continue a text");
  add_model_options(*command, options->model);
  add_prompt_options(*command, *options);
  add_answer_options(*command, *options);
  add_sampling_options(*command, options->sampling);
  add_kv_options(*command, options->kv);
  command
      ->add_option(
          "--prompt-cache-file,--prompt-cache",
          options->prompt_cache_file,
          "Go on from a prompt that cache-prompt saved, with the kind of cache "
          "it was saved from")
      ->type_name("FILE")
      ->group("Key/value cache");
  exclude_what_has_no_effect(*command);
  command->footer(examples);
  command->callback([options, &exit] {
    find_model(options->model);
    run(*options, exit);
  });
}

} // namespace qwen3_mlx::cli
