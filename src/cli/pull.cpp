// SPDX-License-Identifier: MIT
// qwen3-mlx pull: downloads a model into the cache.

#include <iostream>
#include <memory>
#include <string>

#include "cli/commands.h"
#include "cli/find_model.h"

namespace qwen3_mlx::cli {
namespace {

constexpr const char* about =
    "\nThe cache is huggingface_hub's (~/.cache/huggingface/hub, HF_HUB_CACHE, "
    "HF_HOME);\nother programs find what was pulled, and this one what they "
    "pulled. A pull that\nwas stopped goes on where it was. Prints the path of "
    "the files.\n"
    "Commands that take --model take the same names, and pull what is "
    "missing.\n"
    "\nEnvironment: HF_TOKEN, HF_TOKEN_PATH, HF_ENDPOINT, HF_HOME, "
    "HF_HUB_CACHE,\nHF_HUB_OFFLINE, HF_HUB_DOWNLOAD_TIMEOUT.\n"
    "\nExamples:\n"
    "  qwen3-mlx pull qwen3:4b\n"
    "  qwen3-mlx pull Qwen/Qwen3-0.6B@main\n"
    "  qwen3-mlx pull Qwen/Qwen3-0.6B-GGUF/Qwen3-0.6B-Q8_0.gguf\n"
    "\nShort names:\n";

std::string footer() {
  std::string text = about;
  for (const auto& [name, repo] : hub::short_names()) {
    std::string line = "  " + std::string(name);
    line.resize(26, ' ');
    text += line + std::string(repo) + "\n";
  }
  text.pop_back();
  return text;
}

void run(const std::string& model) {
  const auto reference = hub::parse_reference(model);
  if (!reference) {
    throw CLI::ValidationError(
        "MODEL",
        "expected org/name[@revision][/file] or a short name, found \"" +
            model + "\"");
  }
  std::cout << pull_model(hub_settings(), *reference).string() << '\n';
}

} // namespace

void add_pull(CLI::App& app, Exit&) {
  auto model = std::make_shared<std::string>();
  auto* command = app.add_subcommand("pull", "Download a model");
  command
      ->add_option(
          "model",
          *model,
          "org/name, org/name@revision, a file within, or a "
          "short name")
      ->required()
      ->type_name("REPO");
  command->footer(footer());
  command->callback([model] { run(*model); });
}

} // namespace qwen3_mlx::cli
