// SPDX-License-Identifier: MIT
// `qwen3-mlx template`: a conversation on standard input, its prompt on
// standard output.
#include <iostream>
#include <iterator>
#include <memory>
#include <string>

#include "cli/commands.h"
#include "cli/find_model.h"
#include "qwen3_mlx/chat_template.h"

namespace qwen3_mlx::cli {

namespace {

ChatTemplate load(const std::string& model, const std::string& file) {
  if (!model.empty()) {
    return load_chat_template(model);
  }
  // Alone, a template has no special tokens: they print nothing, unless the
  // request names them.
  ChatTemplate loaded = load_chat_template(file);
  if (!loaded.special_tokens().empty()) {
    return loaded;
  }
  return ChatTemplate(
      loaded.source(), {{"bos_token", ""}, {"eos_token", ""}}, file);
}

void run(const std::string& model, const std::string& file) {
  ChatTemplate chat_template = load(model, file);
  if (chat_template.is_default()) {
    std::cerr << "warning: " << (model.empty() ? file : model)
              << " has no chat template; using plain ChatML\n";
  }
  std::string request(std::istreambuf_iterator<char>(std::cin), {});
  std::string text = chat_template.render_json(request);
  std::cout.write(text.data(), static_cast<std::streamsize>(text.size()));
  std::cout.flush();
}

} // namespace

void add_template(CLI::App& app, Exit&) {
  auto model = std::make_shared<std::string>();
  auto file = std::make_shared<std::string>();
  CLI::App* command = app.add_subcommand(
      "template", "Render a conversation with a chat template");
  auto* source = command->add_option_group("source");
  source->add_option("--model", *model, "Model directory or GGUF file")
      ->type_name("PATH");
  source->add_option("--template", *file, "Template file")->type_name("FILE");
  source->require_option(1);
  command->footer(
      "Reads {\"messages\":[...],\"tools\":[...],"
      "\"add_generation_prompt\":true,\n"
      "\"chat_template_kwargs\":{...}} from standard input and prints exactly "
      "the\nrendered text.");
  command->callback([model, file] {
    const auto path = model->empty() ? *model : find_model(*model).string();
    run(path, *file);
  });
}

} // namespace qwen3_mlx::cli
