// SPDX-License-Identifier: MIT
// qwen3-mlx rm: removes models from the cache.

#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "cli/commands.h"
#include "cli/find_model.h"
#include "cli/terminal.h"
#include "hub/cache.h"

namespace qwen3_mlx::cli {
namespace {

void run(const std::vector<std::string>& models) {
  const hub::Cache cache(hub_settings().cache);
  for (const auto& model : models) {
    const auto reference = hub::parse_reference(model);
    if (!reference || !reference->file.empty()) {
      throw CLI::ValidationError(
          "MODEL",
          "expected org/name, org/name@revision or a short name, found \"" +
              model + "\"");
    }
    const bool only_revision = model.find('@') != std::string::npos;
    const auto n_bytes = cache.remove(*reference, only_revision);
    std::cout << "Removed " << model << ": " << human_bytes(n_bytes) << '\n';
  }
}

} // namespace

void add_remove(CLI::App& app, Exit&) {
  auto models = std::make_shared<std::vector<std::string>>();
  auto* command = app.add_subcommand("rm", "Remove models from the cache");
  command
      ->add_option(
          "models", *models, "org/name, or with @revision only that one")
      ->required()
      ->type_name("REPO");
  command->footer(
      "\nThe cache is shared with other programs that use huggingface_hub.");
  command->callback([models] { run(*models); });
}

} // namespace qwen3_mlx::cli
