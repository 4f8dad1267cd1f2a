// SPDX-License-Identifier: MIT
// qwen3-mlx list: what is in the cache.

#include <ctime>

#include <array>
#include <chrono>
#include <iostream>
#include <memory>

#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/find_model.h"
#include "cli/table.h"
#include "cli/terminal.h"
#include "hub/cache.h"

namespace qwen3_mlx::cli {
namespace {

using Json = nlohmann::ordered_json;

std::string date_of(std::filesystem::file_time_type time) {
  // clock_cast is not everywhere yet: the distance to now is the same.
  const auto age = std::filesystem::file_time_type::clock::now() - time;
  const auto seconds = std::chrono::system_clock::to_time_t(
      std::chrono::system_clock::now() -
      std::chrono::duration_cast<std::chrono::system_clock::duration>(age));
  std::tm local{};
  ::localtime_r(&seconds, &local);
  std::array<char, 32> text{};
  const auto n =
      std::strftime(text.data(), text.size(), "%Y-%m-%d %H:%M", &local);
  return {text.data(), n};
}

std::string joined(const std::vector<std::string>& words) {
  std::string text;
  for (const auto& word : words) {
    text += (text.empty() ? "" : ",") + word;
  }
  return text;
}

void print_json(const std::vector<hub::CachedRepo>& repos) {
  auto list = Json::array();
  for (const auto& repo : repos) {
    auto revisions = Json::array();
    for (const auto& revision : repo.revisions) {
      revisions.push_back(
          {{"commit", revision.commit},
           {"refs", revision.refs},
           {"size_bytes", revision.n_bytes},
           {"complete", revision.is_complete}});
    }
    list.push_back(
        {{"repo", repo.repo},
         {"size_bytes", repo.n_bytes},
         {"modified", date_of(repo.modified)},
         {"revisions", std::move(revisions)}});
  }
  std::cout << list.dump(2) << '\n';
}

void print_table(const std::vector<hub::CachedRepo>& repos) {
  std::uint64_t n_bytes = 0;
  Table table(
      {{"REPO"}, {"REVISION"}, {"SIZE", Align::right}, {"MODIFIED"}, {""}});
  for (const auto& repo : repos) {
    n_bytes += repo.n_bytes;
    if (repo.revisions.empty()) {
      table.add(
          {repo.repo,
           "",
           human_bytes(repo.n_bytes),
           date_of(repo.modified),
           "unfinished"});
    }
    for (const auto& revision : repo.revisions) {
      table.add(
          {repo.repo,
           revision.refs.empty() ? revision.commit.substr(0, 12)
                                 : joined(revision.refs),
           human_bytes(revision.n_bytes),
           date_of(repo.modified),
           revision.is_complete ? "" : "incomplete"});
    }
  }
  if (!repos.empty()) {
    table.print(std::cout);
  }
  std::cout << repos.size() << (repos.size() == 1 ? " model, " : " models, ")
            << human_bytes(n_bytes) << '\n';
}

} // namespace

void add_list(CLI::App& app, Exit&) {
  auto json = std::make_shared<bool>(false);
  auto* command = app.add_subcommand("list", "List the models in the cache");
  command->add_flag("--json", *json, "Print JSON");
  command->callback([json] {
    const auto repos = hub::Cache(hub_settings().cache).list();
    if (*json) {
      print_json(repos);
    } else {
      print_table(repos);
    }
  });
}

} // namespace qwen3_mlx::cli
