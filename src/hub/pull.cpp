// SPDX-License-Identifier: MIT
#include "hub/pull.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <exception>
#include <mutex>
#include <set>
#include <system_error>
#include <thread>

#include "hub/cache.h"
#include "hub/download.h"
#include "hub/hub_error.h"
#include "hub/remote.h"

namespace qwen3_mlx::hub {
namespace {

namespace fs = std::filesystem;

constexpr std::array<std::string_view, 16> side_files{
    "config.json",
    "generation_config.json",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    "chat_template.json",
    "chat_template.jinja",
    "quantize_config.json",
    "quant_config.json",
    "quantization_config.json",
    "hf_quant_config.json",
    "recipe.yaml"};
constexpr std::string_view templates = "additional_chat_templates/";
constexpr std::string_view weights = ".safetensors";
// More than any disk has, and no sum with one more file overflows.
constexpr std::uint64_t max_needed = std::uint64_t{1} << 62;

/// Calls `work(remote, idx)` for all of [0, count) from several threads, each
/// with a connection of its own; the first failure stops the others.
template <class Work>
void for_each(
    const Settings& settings,
    const std::function<bool()>& cancelled,
    std::size_t count,
    const Work& work) {
  std::atomic<std::size_t> next{0};
  std::atomic<bool> failed{false};
  std::mutex mutex;
  std::exception_ptr failure; // guarded by mutex
  const auto run = [&] {
    try {
      Remote remote(
          settings, [&] { return failed || (cancelled && cancelled()); });
      for (std::size_t idx = next++; idx < count; idx = next++) {
        work(remote, idx);
      }
    } catch (...) {
      const std::lock_guard lock(mutex);
      if (!failed.exchange(true)) {
        failure = std::current_exception();
      }
    }
  };
  const auto n_threads = std::min<std::size_t>(
      count, static_cast<std::size_t>(std::max(settings.n_connections, 1)));
  std::vector<std::thread> threads;
  for (std::size_t idx = 1; idx < n_threads; ++idx) {
    threads.emplace_back(run);
  }
  run();
  for (auto& thread : threads) {
    thread.join();
  }
  if (failure) {
    std::rethrow_exception(failure);
  }
}

std::string gigabytes(std::uint64_t n_bytes) {
  const auto hundredths = (n_bytes + 4'999'999) / 10'000'000;
  const auto rest = std::to_string(hundredths % 100);
  return std::to_string(hundredths / 100) + "." + (rest.size() < 2 ? "0" : "") +
      rest + " GB";
}

/// Throws when what is left to fetch does not fit on the disk.
void check_space(
    const Cache& cache,
    const std::string& repo,
    const std::vector<WantedFile>& files) {
  std::uint64_t needed = 0;
  std::set<std::string> seen; // two names may share their bytes
  for (const auto& file : files) {
    if (seen.insert(file.info.etag).second) {
      needed += file.info.n_bytes - bytes_there(cache, repo, file.info);
      needed = std::min(needed, max_needed);
    }
  }
  std::error_code error;
  fs::create_directories(cache.root(), error);
  if (error) {
    throw FileError(cache.root(), "cannot create: " + error.message());
  }
  const auto space = fs::space(cache.root(), error);
  if (!error && space.available < needed) {
    throw HubError(
        Fault::no_space,
        repo + ": needs " + gigabytes(needed) + ", and " +
            cache.root().string() + " has " + gigabytes(space.available) +
            " free; make room (qwen3-mlx list, rm) or set HF_HUB_CACHE to "
            "another disk");
  }
}

[[noreturn]] void fail_without_file(
    const std::vector<std::string>& files,
    const Reference& reference,
    const std::string& what) {
  std::string others;
  for (const auto& file : files) {
    if (file.ends_with(".gguf") && others.size() < 2000) {
      others += "\n  " + reference.repo +
          (reference.revision == "main" ? "" : "@" + reference.revision) + "/" +
          file;
    }
  }
  throw HubError(
      Fault::not_found,
      to_string(reference) + ": " + what +
          (others.empty() ? "" : "; its GGUF files are" + others));
}

} // namespace

std::vector<std::string> needed_files(
    const std::vector<std::string>& files,
    const Reference& reference) {
  const auto has = [&](const std::string& name) {
    return std::find(files.begin(), files.end(), name) != files.end();
  };
  if (!reference.file.empty()) {
    auto parts = parts_of(reference.file);
    for (const auto& part : parts) {
      if (!has(part)) {
        fail_without_file(files, reference, "no file " + part);
      }
    }
    return parts;
  }
  if (!has("config.json")) {
    fail_without_file(files, reference, "has no config.json");
  }
  std::vector<std::string> needed;
  bool has_weights = false;
  const bool has_model =
      std::any_of(files.begin(), files.end(), [](const auto& file) {
        return file.starts_with("model") && file.ends_with(weights);
      });
  for (const auto& file : files) {
    const bool is_top = file.find('/') == std::string::npos;
    // Some repositories hold the weights a second time under another name.
    const bool is_weights = is_top && file.ends_with(weights) &&
        (file.starts_with("model") || !has_model);
    const bool is_template =
        file.starts_with(templates) && file.ends_with(".jinja");
    const bool is_side =
        std::find(side_files.begin(), side_files.end(), file) !=
        side_files.end();
    if (is_weights || is_template || is_side) {
      needed.push_back(file);
    }
    has_weights = has_weights || is_weights;
  }
  if (!has_weights) {
    fail_without_file(files, reference, "has no weights in safetensors");
  }
  return needed;
}

fs::path pull(
    const Settings& settings,
    const Reference& reference,
    const PullOptions& options) {
  const Cache cache(settings.cache);
  if (settings.offline) {
    if (auto found = cache.find(reference)) {
      return *found;
    }
    throw HubError(
        Fault::offline,
        to_string(reference) + ": not whole in the cache " +
            cache.root().string() +
            ", and HF_HUB_OFFLINE keeps this program from downloading");
  }
  const auto& repo = reference.repo;
  const auto listing = Remote(settings, options.cancelled).list(reference);
  const auto& commit = listing.commit;
  const auto names = needed_files(listing.files, reference);

  std::vector<WantedFile> files(names.size());
  for_each(
      settings,
      options.cancelled,
      names.size(),
      [&](Remote& remote, std::size_t idx) {
        files[idx] = {names[idx], remote.info(repo, commit, names[idx])};
      });
  check_space(cache, repo, files);

  std::mutex mutex;
  std::vector<FileProgress> state; // guarded by mutex
  for (const auto& file : files) {
    state.push_back(
        {file.name, bytes_there(cache, repo, file.info), file.info.n_bytes});
  }
  for_each(
      settings,
      options.cancelled,
      files.size(),
      [&](Remote& remote, std::size_t idx) {
        download_blob(
            remote, cache, repo, commit, files[idx], [&](std::uint64_t done) {
              const std::lock_guard lock(mutex);
              state[idx].done = done;
              if (options.progress) {
                options.progress(state);
              }
            });
      });

  // config.json last: with it the snapshot counts as complete.
  std::stable_partition(files.begin(), files.end(), [](const auto& file) {
    return file.name != "config.json";
  });
  for (const auto& file : files) {
    cache.link(repo, commit, file.name, file.info.etag);
  }
  cache.write_ref(repo, reference.revision, commit);
  const auto folder = cache.snapshot(repo, commit);
  return reference.file.empty() ? folder : folder / reference.file;
}

} // namespace qwen3_mlx::hub
