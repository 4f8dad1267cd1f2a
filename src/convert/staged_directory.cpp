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

/// Removes what processes that are gone have left of this target.
void remove_left_over(const fs::path& target) {
  const auto prefix = target.filename().string() + std::string(infix);
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(parent_of(target), error)) {
    if (!entry.path().filename().string().starts_with(prefix)) {
      continue;
    }
    const int lock = lock_directory(entry.path());
    if (lock >= 0) {
      fs::remove_all(entry.path(), error);
      ::close(lock);
    }
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
  const auto parent = parent_of(target_);
  fs::create_directories(parent, error);
  if (error) {
    throw FileError(parent, reason("cannot create", error.value()));
  }
  remove_left_over(target_);
  auto name = target_.string() + std::string(infix) + "XXXXXX";
  if (::mkdtemp(name.data()) == nullptr) {
    throw FileError(target_, reason("cannot create", errno));
  }
  directory_ = name;
  lock_ = lock_directory(directory_);
  if (lock_ < 0) {
    throw FileError(target_, "another process is writing it at this moment");
  }
  ::chmod(directory_.c_str(), 0755);
}

StagedDirectory::~StagedDirectory() {
  files_.clear();
  if (!directory_.empty()) {
    std::error_code error;
    fs::remove_all(directory_, error);
  }
  if (lock_ >= 0) {
    ::close(lock_);
  }
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
    if (!exchange(directory_, target_)) {
      // In two steps then: what is old goes before what is new comes.
      fs::remove_all(target_, error);
      fs::rename(directory_, target_, error);
      if (error) {
        throw FileError(
            target_, reason("cannot rename into place", error.value()));
      }
      directory_.clear();
    }
    sync_directory(parent_of(target_));
    return; // the destructor removes what was exchanged
  }
  // Onto an empty directory rename() succeeds: one that was made meanwhile.
  if (::rename(directory_.c_str(), target_.c_str()) != 0) {
    throw FileError(target_, reason("cannot rename into place", errno));
  }
  directory_.clear();
  sync_directory(parent_of(target_));
}

} // namespace qwen3_mlx
