// SPDX-License-Identifier: MIT
// qwen3-mlx cache-prompt: reads a long prompt once and saves what the model
// made of it, for `generate --prompt-cache-file`.

#include <mlx/memory.h>

#include <iostream>
#include <memory>

#include "cli/answer.h"
#include "cli/cache_options.h"
#include "cli/commands.h"
#include "cli/model_options.h"
#include "cli/numbers.h"
#include "cli/terminal.h"
#include "qwen3_mlx/error.h"
#include "qwen3_mlx/prompt_cache.h"

namespace qwen3_mlx::cli {
namespace {

constexpr const char* examples =
    "\nThe prompt becomes the beginning of the user's message; what generate "
    "is\n"
    "given later continues that message.\n"
    "\nExample:\n"
    "  cat book.txt | qwen3-mlx cache-prompt --model DIR "
    "--prompt-cache-file book.safetensors -\n"
    "  qwen3-mlx generate --model DIR --prompt-cache-file book.safetensors "
    "\"Who dies?\"";

struct CachePromptCommand {
  ModelOptions model;
  KvOptions kv;
  TemplateOptions chat_template;
  std::string prompt;
  std::string system_prompt;
  bool ignore_chat_template = false;
  std::filesystem::path prompt_cache_file;
  int prefill_step_size = 2048;
};

/// Feeds `ids` in chunks; the logits of the last row are all that is computed
/// of the output head, and are dropped.
void prefill(
    const Model& model,
    std::vector<KVCache>& cache,
    std::span<const std::uint32_t> ids,
    int step_size) {
  ProgressBar bar("Reading the prompt", ProgressBar::Unit::count);
  const auto step = static_cast<std::size_t>(step_size);
  for (std::size_t done = 0; done < ids.size();) {
    const auto chunk = ids.subspan(done, std::min(step, ids.size() - done));
    const int length = static_cast<int>(chunk.size());
    const mx::array tokens(chunk.begin(), {length}, mx::uint32);
    const Segment segment{
        .cache = cache,
        .length = length,
        .prompt_length = static_cast<int>(ids.size())};
    mx::eval(model.forward({tokens, {segment}, std::vector<int>{length - 1}}));
    eval_caches(cache);
    done += chunk.size();
    bar.update(done, ids.size());
  }
}

void run(const CachePromptCommand& options) {
  const auto tokenizer = load_tokenizer(options.model.model);
  const auto prompt = options.prompt == "-" ? read_stdin() : options.prompt;
  std::vector<std::uint32_t> ids;
  if (options.ignore_chat_template) {
    ids = tokenizer.encode(prompt, /* add_special_tokens */ true);
  } else {
    const PromptRenderer renderer(options.model.model, options.chat_template);
    warn_of_fallback(renderer);
    ids = tokenizer.encode(renderer.render_before_end(
        make_messages(options.system_prompt, prompt)));
  }
  if (ids.empty()) {
    throw InvalidArgument("the prompt is empty");
  }
  const auto model = load_with_progress(options.model);
  check_vocabulary(ids, model, options.model.model);
  auto cache = model.make_cache(cache_options(options.kv));
  prefill(model, cache, ids, options.prefill_step_size);
  save_prompt_cache(options.prompt_cache_file, cache, ids, model);
  std::cerr << "Saved " << ids.size() << " tokens to "
            << options.prompt_cache_file.string() << " ("
            << human_bytes(
                   std::filesystem::file_size(options.prompt_cache_file))
            << ")\n";
}

} // namespace

void add_cache_prompt(CLI::App& app, Exit&) {
  auto options = std::make_shared<CachePromptCommand>();
  auto* command = app.add_subcommand(
      "cache-prompt", "Read a prompt once and save it for later");
  add_model_options(*command, options->model);
  command
      ->add_option(
          "prompt,-p,--prompt",
          options->prompt,
          "The prompt; - reads it from standard input")
      ->required()
      ->type_name("TEXT")
      ->group("Prompt");
  command
      ->add_option(
          "--system-prompt,--sys",
          options->system_prompt,
          "What the system message says")
      ->type_name("TEXT")
      ->group("Prompt");
  command
      ->add_flag(
          "--ignore-chat-template",
          options->ignore_chat_template,
          "Give the model the prompt as it is")
      ->excludes("--system-prompt")
      ->group("Prompt");
  command
      ->add_option(
          "--chat-template-config,--chat-template-kwargs",
          options->chat_template.config,
          "Variables of the template, a JSON object")
      ->type_name("JSON")
      ->excludes("--ignore-chat-template")
      ->group("Prompt");
  add_kv_options(*command, options->kv);
  command
      ->add_option(
          "--prompt-cache-file,--prompt-cache",
          options->prompt_cache_file,
          "Where to save")
      ->required()
      ->type_name("FILE")
      ->group("Key/value cache");
  command
      ->add_option(
          "--prefill-step-size,-b,--batch-size",
          options->prefill_step_size,
          "Prompt tokens read at once")
      ->capture_default_str()
      ->type_name("N")
      ->transform(whole_number(1))
      ->group("Key/value cache");
  command->footer(examples);
  command->callback([options] {
    find_model(options->model);
    run(*options);
  });
}

} // namespace qwen3_mlx::cli
