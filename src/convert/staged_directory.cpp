// SPDX-License-Identifier: MIT
#include "convert/staged_directory.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/syscall.h>
#endif

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <system_error>
#include <utility>

#include "qwen3_mlx/error.h"

namespace qwen3_mlx {
namespace {

namespace fs = std::filesystem;

// One call must not exceed what Linux and macOS transfer at once.
constexpr std::size_t max_io_bytes = std::size_t{1} << 30;
constexpr std::string_view infix = ".part-";
constexpr std::size_t n_random = 6; // characters that mkdtemp() chooses
// Says that a directory of that name is ours.
constexpr const char* marker_name = "qwen3-mlx-unfinished";
constexpr const char* content_name = "content";

std::string reason(std::string_view what, int error) {
  return std::string(what) + ": " + std::generic_category().message(error);
}

fs::path parent_of(const fs::path& path) {
  return path.has_parent_path() ? path.parent_path() : fs::path(".");
}

/// Opens the directory and locks it against other processes; -1 when another
/// holds it, or it is not there.
int lock_directory(const fs::path& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd >= 0 && ::flock(fd, LOCK_EX | LOCK_NB) != 0) {
    ::close(fd);
    return -1;
  }
  return fd;
}

/// "<target>.part-XXXXXX" as mkdtemp() makes it.
bool is_part_name(std::string_view name, std::string_view prefix) {
  constexpr std::string_view letters =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
  return name.size() == prefix.size() + n_random && name.starts_with(prefix) &&
      name.find_first_not_of(letters, prefix.size()) == std::string_view::npos;
}

/// Removes a directory that StagedDirectory made. The marker goes last but the
/// directory itself, so that a removal that is cut short can be taken up; and
/// whatever else somebody has put there stays.
void remove_part(const fs::path& path) {
  std::error_code error;
  fs::remove_all(path / content_name, error);
  if (!error) {
    fs::remove(path / marker_name, error);
    fs::remove(path, error);
  }
}

/// Removes what processes that are gone have left of this target. Nothing but
/// this program's own goes: the name may be somebody's.
void remove_left_over(const fs::path& target) {
  const auto prefix = target.filename().string() + std::string(infix);
  std::vector<fs::path> found;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(parent_of(target), error)) {
    if (is_part_name(entry.path().filename().string(), prefix) &&
        entry.symlink_status(error).type() == fs::file_type::directory) {
      found.push_back(entry.path());
    }
  }
  for (const auto& path : found) {
    const int lock = lock_directory(path);
    if (lock < 0) {
      continue;
    }
    if (fs::is_regular_file(fs::symlink_status(path / marker_name, error))) {
      remove_part(path);
    } else {
      // Only when empty, as a process leaves it that has just begun.
      fs::remove(path, error);
    }
    ::close(lock);
  }
}

/// Throws unless the directory is empty or a checkpoint: "--force" is said of
/// an older result, not of whatever a mistyped name leads to.
void check_replaceable(const fs::path& target) {
  bool is_empty = true;
  bool has_config = false;
  bool has_tensors = false;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(target, error)) {
    is_empty = false;
    has_config = has_config || entry.path().filename() == "config.json";
    has_tensors = has_tensors || entry.path().extension() == ".safetensors";
  }
  if (error) {
    throw FileError(target, reason("cannot list", error.value()));
  }
  if (!is_empty && !(has_config && has_tensors)) {
    throw FileError(
        target,
        "is not replaced, for it is not a checkpoint: expected config.json and "
        "*.safetensors in it; choose another target or remove it yourself");
  }
}

void sync_directory(const fs::path& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd >= 0) {
    ::fsync(fd); // best effort: not every file system has it
    ::close(fd);
  }
}

/// Exchanges two directories in one step. False where the system cannot.
bool exchange(const fs::path& a, const fs::path& b) {
#if defined(__linux__) && defined(SYS_renameat2)
  constexpr unsigned int rename_exchange = 2;
  return ::syscall(
             SYS_renameat2,
             AT_FDCWD,
             a.c_str(),
             AT_FDCWD,
             b.c_str(),
             rename_exchange) == 0;
#elif defined(__APPLE__)
  return ::renamex_np(a.c_str(), b.c_str(), RENAME_SWAP) == 0;
#else
  return false;
#endif
}

} // namespace

StagedFile::StagedFile(const fs::path& path, fs::path target)
    : target_(std::move(target)),
      fd_(::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644)) {
  if (fd_ < 0) {
    throw FileError(target_, reason("cannot create", errno));
  }
}

StagedFile::~StagedFile() {
  ::close(fd_);
}

void StagedFile::write(
    std::uint64_t offset,
    const void* data,
    std::size_t n_bytes) {
  const auto* from = static_cast<const char*>(data);
  while (n_bytes > 0) {
    const auto count = ::pwrite(
        fd_, from, std::min(n_bytes, max_io_bytes), static_cast<off_t>(offset));
    if (count < 0 && errno == EINTR) {
      continue;
    }
    if (count < 0) {
      throw FileError(target_, reason("cannot write", errno));
    }
    from += count;
    offset += static_cast<std::uint64_t>(count);
    n_bytes -= static_cast<std::size_t>(count);
  }
}

void StagedFile::sync() {
  if (::fsync(fd_) != 0) {
    throw FileError(target_, reason("cannot sync", errno));
  }
}

StagedDirectory::StagedDirectory(
    const fs::path& target,
    bool replace,
    Kind kind)
    : target_(target), replace_(replace), kind_(kind) {
  // "dir/" means "dir".
  if (!target_.has_filename()) {
    target_ = target_.parent_path();
  }
  if (target_.filename().empty() || target_.filename() == "." ||
      target_.filename() == "..") {
    throw FileError(
        target,
        kind_ == Kind::file ? "expected the name of a new file"
                            : "expected the name of a new directory");
  }
  std::error_code error;
  const auto status = fs::symlink_status(target_, error);
  if (fs::exists(status) && !replace) {
    throw FileError(target_, "is already there; use --force to replace it");
  }
  const bool fits = kind_ == Kind::file ? fs::is_regular_file(status)
                                        : fs::is_directory(status);
  if (fs::exists(status) && !fits) {
    throw FileError(
        target_,
        kind_ == Kind::file ? "is already there and not a file"
                            : "is already there and not a directory");
  }
  if (fs::is_directory(status)) {
    check_replaceable(target_);
  }
  const auto parent = parent_of(target_);
  fs::create_directories(parent, error);
  if (error) {
    throw FileError(parent, reason("cannot create", error.value()));
  }
  remove_left_over(target_);
  auto name =
      target_.string() + std::string(infix) + std::string(n_random, 'X');
  if (::mkdtemp(name.data()) == nullptr) {
    throw FileError(target_, reason("cannot create", errno));
  }
  const fs::path part = name;
  lock_ = lock_directory(part);
  if (lock_ < 0) {
    fs::remove(part, error);
    throw FileError(target_, "another process is writing it at this moment");
  }
  part_ = part;
  directory_ = part_ / content_name;
  try {
    const StagedFile marker(part_ / marker_name, target_);
    if (::mkdir(directory_.c_str(), 0755) != 0) {
      throw FileError(target_, reason("cannot create", errno));
    }
  } catch (...) {
    remove_part(part_);
    ::close(lock_);
    throw;
  }
}

StagedDirectory::~StagedDirectory() {
  files_.clear();
  remove_part(part_);
  ::close(lock_);
}

std::uint64_t StagedDirectory::free_bytes() const {
  std::error_code error;
  const auto space = fs::space(directory_, error);
  return error ? UINT64_MAX : static_cast<std::uint64_t>(space.available);
}

StagedFile& StagedDirectory::create(const std::string& name) {
  return *files_.emplace_back(std::make_unique<StagedFile>(
      directory_ / name, kind_ == Kind::file ? target_ : target_ / name));
}

void StagedDirectory::write_file(
    const std::string& name,
    std::string_view bytes) {
  create(name).write(0, bytes.data(), bytes.size());
}

void StagedDirectory::publish_file() {
  const auto staged = *fs::directory_iterator(directory_);
  // A file that was made meanwhile is not ours to replace.
  const int result = replace_ ? ::rename(staged.path().c_str(), target_.c_str())
                              : ::link(staged.path().c_str(), target_.c_str());
  if (result != 0) {
    throw FileError(target_, reason("cannot rename into place", errno));
  }
  sync_directory(parent_of(target_));
}

void StagedDirectory::publish() {
  for (const auto& file : files_) {
    file->sync();
  }
  files_.clear();
  sync_directory(directory_);
  if (kind_ == Kind::file) {
    publish_file();
    return;
  }
  std::error_code error;
  if (replace_ && fs::exists(target_, error)) {
    check_replaceable(target_); // it may have become another meanwhile
    if (!exchange(directory_, target_)) {
      // In two steps then: what is old goes before what is new comes.
      fs::remove_all(target_, error);
      fs::rename(directory_, target_, error);
      if (error) {
        throw FileError(
            target_, reason("cannot rename into place", error.value()));
      }
    }
    sync_directory(parent_of(target_));
    return; // the destructor removes what was exchanged
  }
  // Onto an empty directory rename() succeeds: one that was made meanwhile.
  if (::rename(directory_.c_str(), target_.c_str()) != 0) {
    throw FileError(target_, reason("cannot rename into place", errno));
  }
  sync_directory(parent_of(target_));
}

} // namespace qwen3_mlx
