// SPDX-License-Identifier: MIT
#include "hub/file_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <system_error>
#include <thread>

#include "hub/hub_error.h"

namespace qwen3_mlx::hub {

FileLock::FileLock(
    const std::filesystem::path& path,
    const std::function<bool()>& cancelled) {
  std::error_code error;
  std::filesystem::create_directories(path.parent_path(), error);
  fd_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (fd_ < 0) {
    throw FileError(
        path, "cannot create: " + std::generic_category().message(errno));
  }
  while (::flock(fd_, LOCK_EX | LOCK_NB) != 0) {
    const int reason = errno;
    if (reason != EWOULDBLOCK && reason != EINTR) {
      // Some network file systems have no locks. Blobs are checked and renamed
      // into place, so that two writers cost time and harm nothing.
      break;
    }
    if (cancelled && cancelled()) {
      ::close(fd_);
      throw HubError(Fault::cancelled, "interrupted");
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
}

FileLock::~FileLock() {
  ::close(fd_);
}

} // namespace qwen3_mlx::hub
