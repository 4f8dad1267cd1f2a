// SPDX-License-Identifier: MIT
#include "base/file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "qwen3_mlx/error.h"

namespace qwen3_mlx {
namespace {

std::string reason(std::string_view what, int error) {
  return std::string(what) + ": " + std::strerror(error);
}

// Linux moves at most 0x7ffff000 bytes a call; stay below on every system.
constexpr std::size_t max_io_bytes = std::size_t{1} << 30;

} // namespace

File::File(std::filesystem::path path)
    : path_(std::move(path)),
      // O_NONBLOCK: opening a FIFO must not wait for its writer.
      fd_(::open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)) {
  if (fd_ < 0) {
    throw FileError(path_, reason("cannot open", errno));
  }
  struct stat status {};
  const int result = ::fstat(fd_, &status);
  if (result != 0 || !S_ISREG(status.st_mode)) {
    const int error = errno;
    ::close(fd_);
    throw FileError(
        path_,
        result != 0 ? reason("cannot stat", error) : "not a regular file");
  }
  size_ = static_cast<std::uint64_t>(status.st_size);
}

File::~File() {
  if (fd_ >= 0) {
    ::close(fd_);
  }
}

File::File(File&& other) noexcept
    : path_(std::move(other.path_)), fd_(std::exchange(other.fd_, -1)),
      size_(other.size_) {}

File& File::operator=(File&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(fd_, other.fd_);
  std::swap(size_, other.size_);
  return *this;
}

void File::read(std::uint64_t offset, std::size_t n_bytes, void* out) const {
  auto* to = static_cast<char*>(out);
  std::size_t done = 0;
  while (done < n_bytes) {
    const auto count = ::pread(
        fd_,
        to + done,
        std::min(n_bytes - done, max_io_bytes),
        static_cast<off_t>(offset + done));
    if (count < 0 && errno == EINTR) {
      continue;
    }
    if (count < 0) {
      throw FileError(path_, reason("cannot read", errno));
    }
    if (count == 0) {
      throw FileError(
          path_,
          "ends at byte " + std::to_string(offset + done) + ", expected " +
              std::to_string(n_bytes - done) +
              " more; the file is truncated, fetch it again");
    }
    done += static_cast<std::size_t>(count);
  }
}

std::string
read_file(const std::filesystem::path& path, std::uint64_t max_bytes) {
  const File file(path);
  if (file.size() > max_bytes) {
    throw FileError(
        path,
        "has " + std::to_string(file.size()) + " bytes, expected at most " +
            std::to_string(max_bytes));
  }
  std::string bytes(static_cast<std::size_t>(file.size()), '\0');
  file.read(0, bytes.size(), bytes.data());
  return bytes;
}

AtomicFile::AtomicFile(std::filesystem::path path, Access access)
    : path_(std::move(path)), temporary_(path_.string() + ".XXXXXX") {
  std::string name = temporary_.string();
  fd_ = ::mkstemp(name.data());
  if (fd_ < 0) {
    throw FileError(path_, reason("cannot create", errno));
  }
  ::fchmod(fd_, access == Access::owner ? 0600 : 0644);
  temporary_ = name;
}

AtomicFile::~AtomicFile() {
  if (fd_ >= 0) {
    ::close(fd_);
    ::unlink(temporary_.c_str());
  }
}

void AtomicFile::write(const void* data, std::size_t n_bytes) {
  const auto* from = static_cast<const char*>(data);
  while (n_bytes > 0) {
    const auto count = ::write(fd_, from, std::min(n_bytes, max_io_bytes));
    if (count < 0 && errno == EINTR) {
      continue;
    }
    if (count < 0) {
      throw FileError(path_, reason("cannot write", errno));
    }
    from += count;
    n_bytes -= static_cast<std::size_t>(count);
  }
}

void AtomicFile::commit() {
  if (::fsync(fd_) != 0) {
    throw FileError(path_, reason("cannot sync", errno));
  }
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) {
    throw FileError(path_, reason("cannot rename into place", errno));
  }
  ::close(std::exchange(fd_, -1));
  // The rename itself must reach the disk: sync the directory, best effort.
  const auto parent = path_.has_parent_path() ? path_.parent_path() : ".";
  const int directory = ::open(parent.c_str(), O_RDONLY | O_CLOEXEC);
  if (directory >= 0) {
    ::fsync(directory);
    ::close(directory);
  }
}

} // namespace qwen3_mlx
