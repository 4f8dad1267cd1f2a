// SPDX-License-Identifier: MIT
#include "cli/find_model.h"

#include <cstdlib>
#include <iostream>
#include <system_error>

#include "cli/interrupt.h"
#include "cli/pull_progress.h"
#include "hub/cache.h"
#include "hub/hub_error.h"
#include "hub/pull.h"
#include "qwen3_mlx/error.h"

namespace qwen3_mlx::cli {

hub::Settings hub_settings() {
  return hub::settings_from([](const char* name) { return std::getenv(name); });
}

std::filesystem::path
pull_model(const hub::Settings& settings, const hub::Reference& reference) {
  const InterruptScope interrupt;
  PullDisplay display;
  try {
    return hub::pull(
        settings,
        reference,
        {.progress = [&](const auto& files) { display.update(files); },
         .cancelled = [&] { return interrupt.requested(); }});
  } catch (const hub::HubError& error) {
    if (error.fault() == hub::Fault::cancelled) {
      throw hub::HubError(
          hub::Fault::cancelled,
          "interrupted; the next pull of " + to_string(reference) +
              " continues where this one stopped");
    }
    throw;
  }
}

namespace {

/// The first by name of the .gguf files in `folder`, or nothing.
std::filesystem::path find_gguf(const std::filesystem::path& folder) {
  std::filesystem::path found;
  std::error_code error;
  for (std::filesystem::directory_iterator at(folder, error), end;
       !error && at != end;
       at.increment(error)) {
    const auto& path = at->path();
    if (path.extension() == ".gguf" && (found.empty() || path < found)) {
      found = path;
    }
  }
  return found;
}

/// A .gguf file is named itself: its folder may hold many that are not alike.
void check_is_no_folder_of_gguf(const std::filesystem::path& folder) {
  std::error_code error;
  if (std::filesystem::exists(folder / "config.json", error) ||
      std::filesystem::exists(folder / "tokenizer.json", error)) {
    return;
  }
  const auto gguf = find_gguf(folder);
  if (!gguf.empty()) {
    throw FileError(
        folder,
        "has no config.json; to use the .gguf file in it, name that file: "
        "--model " +
            gguf.string());
  }
}

} // namespace

std::filesystem::path find_model(const std::filesystem::path& model) {
  std::error_code error;
  if (std::filesystem::exists(model, error)) {
    check_is_no_folder_of_gguf(model);
    return model;
  }
  const auto reference = hub::parse_reference(model.string());
  if (!reference) {
    return model; // whoever opens it says that it is not there
  }
  const auto settings = hub_settings();
  if (auto found = hub::Cache(settings.cache).find(*reference)) {
    return *found;
  }
  if (!settings.offline) {
    std::cerr << "Pulling " << to_string(*reference) << " from "
              << settings.endpoint << '\n';
  }
  return pull_model(settings, *reference);
}

} // namespace qwen3_mlx::cli
