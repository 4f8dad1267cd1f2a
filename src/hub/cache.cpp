// SPDX-License-Identifier: MIT
#include "hub/cache.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <nlohmann/json.hpp>
#include <set>
#include <system_error>

#include "base/file.h"
#include "hub/hub_error.h"

namespace qwen3_mlx::hub {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view repo_prefix = "models--";
constexpr std::uint64_t max_index_bytes = 64 << 20;
constexpr int max_parts = 99'999;

/// "models--org--name" -> "org/name"; empty for other folders. A name cannot
/// hold "--".
std::string repo_of_folder(const std::string& folder) {
  if (!folder.starts_with(repo_prefix)) {
    return {};
  }
  auto name = folder.substr(repo_prefix.size());
  const auto dashes = name.find("--");
  if (dashes != std::string::npos) {
    name.replace(dashes, 2, "/");
  }
  return name;
}

std::vector<fs::path> entries_of(const fs::path& folder) {
  std::vector<fs::path> entries;
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end;
       it.increment(error)) {
    entries.push_back(it->path());
  }
  std::sort(entries.begin(), entries.end());
  return entries;
}

/// Files under `folder`, links to files among them, at any depth.
std::vector<fs::path> files_under(const fs::path& folder) {
  std::vector<fs::path> files;
  std::error_code error;
  for (fs::recursive_directory_iterator it(folder, error), end;
       !error && it != end;
       it.increment(error)) {
    if (!it->is_directory(error)) {
      files.push_back(it->path());
    }
  }
  return files;
}

std::uint64_t size_of(const fs::path& file) {
  std::error_code error;
  const auto size = fs::file_size(file, error);
  return error ? 0 : static_cast<std::uint64_t>(size);
}

bool is_file(const fs::path& path) {
  std::error_code error;
  return fs::is_regular_file(path, error);
}

void make_folder(const fs::path& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) {
    throw FileError(folder, "cannot create: " + error.message());
  }
}

/// The weight files that an index names; nothing when it cannot be read.
std::optional<std::set<std::string>> weights_of(const fs::path& index) {
  const auto json = nlohmann::json::parse(
      read_file(index, max_index_bytes), nullptr, /* allow_exceptions */ false);
  if (!json.is_object() || !json.contains("weight_map") ||
      !json["weight_map"].is_object()) {
    return std::nullopt;
  }
  std::set<std::string> files;
  for (const auto& [tensor, file] : json["weight_map"].items()) {
    if (!file.is_string() ||
        !is_safe_path(file.get_ref<const std::string&>())) {
      return std::nullopt;
    }
    files.insert(file.get<std::string>());
  }
  return files;
}

} // namespace

std::vector<std::string> parts_of(const std::string& file) {
  // "...-NNNNN-of-NNNNN.gguf"
  constexpr std::string_view extension = ".gguf";
  constexpr std::size_t n_tail = 5 + 4 + 5;
  const std::vector<std::string> alone{file};
  if (!file.ends_with(extension) ||
      file.size() < extension.size() + n_tail + 1) {
    return alone;
  }
  const auto tail = file.size() - extension.size() - n_tail;
  const std::string_view text(file);
  int count = 0;
  const auto* digits = text.data() + tail + 9;
  const auto [end, error] = std::from_chars(digits, digits + 5, count);
  if (file[tail - 1] != '-' || text.substr(tail + 5, 4) != "-of-" ||
      error != std::errc{} || end != digits + 5 || count < 1 ||
      count > max_parts) {
    return alone;
  }
  std::vector<std::string> parts;
  for (int part = 1; part <= count; ++part) {
    auto number = std::to_string(part);
    number.insert(0, 5 - number.size(), '0');
    parts.push_back(std::string(file).replace(tail, 5, number));
  }
  return parts;
}

bool is_complete_checkpoint(const fs::path& folder) {
  if (!is_file(folder / "config.json")) {
    return false;
  }
  const auto index = folder / "model.safetensors.index.json";
  if (is_file(index)) {
    const auto files = weights_of(index);
    return files && std::all_of(files->begin(), files->end(), [&](auto& file) {
             return is_file(folder / file);
           });
  }
  const auto entries = entries_of(folder);
  return std::any_of(entries.begin(), entries.end(), [](const auto& entry) {
    return entry.extension() == ".safetensors" && is_file(entry);
  });
}

fs::path Cache::repo(const std::string& repo) const {
  auto folder = std::string(repo_prefix) + repo;
  const auto slash = folder.find('/');
  if (slash != std::string::npos) {
    folder.replace(slash, 1, "--");
  }
  return root_ / folder;
}

fs::path Cache::blob(const std::string& repo, const std::string& etag) const {
  return this->repo(repo) / "blobs" / etag;
}

fs::path Cache::lock(const std::string& repo, const std::string& etag) const {
  return root_ / ".locks" / this->repo(repo).filename() / (etag + ".lock");
}

fs::path
Cache::snapshot(const std::string& repo, const std::string& commit) const {
  return this->repo(repo) / "snapshots" / commit;
}

std::optional<std::string>
Cache::commit_of(const std::string& repo, const std::string& revision) const {
  if (is_commit(revision)) {
    return revision;
  }
  const auto ref = this->repo(repo) / "refs" / revision;
  if (!is_safe_path(revision) || !is_file(ref)) {
    return std::nullopt;
  }
  auto commit = read_file(ref, 4096);
  while (!commit.empty() && static_cast<unsigned char>(commit.back()) <= ' ') {
    commit.pop_back();
  }
  return is_commit(commit) ? std::optional(commit) : std::nullopt;
}

std::optional<fs::path> Cache::find(const Reference& reference) const {
  const auto commit = commit_of(reference.repo, reference.revision);
  if (!commit) {
    return std::nullopt;
  }
  const auto folder = snapshot(reference.repo, *commit);
  if (reference.file.empty()) {
    return is_complete_checkpoint(folder) ? std::optional(folder)
                                          : std::nullopt;
  }
  for (const auto& part : parts_of(reference.file)) {
    if (!is_file(folder / part)) {
      return std::nullopt;
    }
  }
  return folder / reference.file;
}

void Cache::link(
    const std::string& repo,
    const std::string& commit,
    const std::string& file,
    const std::string& etag) const {
  const auto path = snapshot(repo, commit) / file;
  make_folder(path.parent_path());
  // From snapshots/COMMIT/a/b up to the repository.
  fs::path target = "../..";
  for (auto depth = std::count(file.begin(), file.end(), '/'); depth > 0;
       --depth) {
    target /= "..";
  }
  target = target / "blobs" / etag;
  std::error_code error;
  if (fs::read_symlink(path, error) == target) {
    return;
  }
  const auto temporary =
      path.string() + "." + std::to_string(::getpid()) + ".tmp";
  fs::remove(temporary, error);
  fs::create_symlink(target, temporary, error);
  if (!error) {
    fs::rename(temporary, path, error);
  }
  if (error) {
    throw FileError(path, "cannot link: " + error.message());
  }
}

void Cache::write_ref(
    const std::string& repo,
    const std::string& revision,
    const std::string& commit) const {
  if (revision == commit || commit_of(repo, revision) == commit) {
    return;
  }
  const auto path = this->repo(repo) / "refs" / revision;
  make_folder(path.parent_path());
  AtomicFile file(path);
  file.write(commit);
  file.commit();
}

std::map<std::string, std::vector<std::string>>
Cache::refs_by_commit(const fs::path& repo) const {
  std::map<std::string, std::vector<std::string>> refs;
  const auto folder = repo / "refs";
  for (const auto& path : files_under(folder)) {
    const auto revision = path.lexically_relative(folder).generic_string();
    const auto name = repo_of_folder(repo.filename().string());
    if (const auto commit = commit_of(name, revision)) {
      refs[*commit].push_back(revision);
    }
  }
  return refs;
}

std::vector<CachedRepo> Cache::list() const {
  std::vector<CachedRepo> repos;
  for (const auto& folder : entries_of(root_)) {
    const auto name = repo_of_folder(folder.filename().string());
    std::error_code error;
    if (name.empty() || !fs::is_directory(folder, error)) {
      continue;
    }
    CachedRepo repo{
        .repo = name, .modified = fs::last_write_time(folder, error)};
    for (const auto& blob : entries_of(folder / "blobs")) {
      repo.n_bytes += size_of(blob);
      repo.modified = std::max(repo.modified, fs::last_write_time(blob, error));
    }
    auto refs = refs_by_commit(folder);
    for (const auto& snapshot : entries_of(folder / "snapshots")) {
      CachedRevision revision{.commit = snapshot.filename().string()};
      revision.refs = refs[revision.commit];
      bool has_gguf = false;
      for (const auto& file : files_under(snapshot)) {
        revision.n_bytes += size_of(file);
        has_gguf = has_gguf || file.extension() == ".gguf";
      }
      revision.is_complete = has_gguf || is_complete_checkpoint(snapshot);
      repo.revisions.push_back(std::move(revision));
    }
    repos.push_back(std::move(repo));
  }
  return repos;
}

std::uint64_t
Cache::remove(const Reference& reference, bool only_revision) const {
  const auto folder = repo(reference.repo);
  std::error_code error;
  if (!fs::is_directory(folder, error)) {
    throw HubError(
        Fault::not_found,
        reference.repo + ": not in the cache " + root_.string() +
            "; see qwen3-mlx list");
  }
  if (only_revision) {
    return remove_revision(reference);
  }
  std::uint64_t n_bytes = 0;
  for (const auto& blob : entries_of(folder / "blobs")) {
    n_bytes += size_of(blob);
  }
  // What names files goes before the files, so that no one who looks meanwhile
  // finds half.
  for (const char* part : {"refs", "snapshots", ""}) {
    fs::remove_all(folder / part, error);
    if (error) {
      throw FileError(folder, "cannot remove: " + error.message());
    }
  }
  fs::remove_all(root_ / ".locks" / folder.filename(), error);
  return n_bytes;
}

std::uint64_t Cache::remove_revision(const Reference& reference) const {
  const auto commit = commit_of(reference.repo, reference.revision);
  const auto folder = repo(reference.repo);
  std::error_code error;
  if (!commit || !fs::is_directory(snapshot(reference.repo, *commit), error)) {
    throw HubError(
        Fault::not_found,
        reference.repo + ": no revision " + reference.revision +
            " in the cache; see qwen3-mlx list");
  }
  const auto blobs_of = [&](const fs::path& snapshot) {
    std::set<std::string> blobs;
    for (const auto& file : files_under(snapshot)) {
      blobs.insert(fs::read_symlink(file, error).filename().string());
    }
    return blobs;
  };
  auto blobs = blobs_of(snapshot(reference.repo, *commit));
  for (const auto& other : entries_of(folder / "snapshots")) {
    if (other.filename() != *commit) {
      for (const auto& blob : blobs_of(other)) {
        blobs.erase(blob);
      }
    }
  }
  const auto refs = refs_by_commit(folder);
  const auto here = refs.find(*commit);
  for (const auto& ref :
       here == refs.end() ? std::vector<std::string>() : here->second) {
    fs::remove(folder / "refs" / ref, error);
  }
  fs::remove_all(snapshot(reference.repo, *commit), error);
  if (error) {
    throw FileError(folder, "cannot remove: " + error.message());
  }
  std::uint64_t n_bytes = 0;
  for (const auto& blob : blobs) {
    if (!blob.empty()) {
      const auto path = folder / "blobs" / blob;
      n_bytes += size_of(path);
      fs::remove(path, error);
    }
  }
  return n_bytes;
}

} // namespace qwen3_mlx::hub
