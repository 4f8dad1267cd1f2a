// SPDX-License-Identifier: MIT
#include "hub/download.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <memory>
#include <system_error>
#include <vector>

#include "hub/digest.h"
#include "hub/file_lock.h"

namespace qwen3_mlx::hub {
namespace {

namespace fs = std::filesystem;

// So many bytes of progress make earlier failures forgotten: less would let a
// server that drops after every byte keep us for ever.
constexpr std::uint64_t worthwhile_bytes = 64 << 10;

fs::path incomplete_of(const fs::path& blob) {
  return blob.string() + ".incomplete";
}

std::string reason(std::string_view what, int error) {
  return std::string(what) + ": " + std::generic_category().message(error);
}

/// The unfinished file and the hash of what it holds.
class Partial {
 public:
  Partial(fs::path path, const FileInfo& info)
      : path_(std::move(path)), info_(info),
        // No link: it could lead anywhere.
        fd_(::open(
            path_.c_str(),
            O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW,
            0644)) {
    if (fd_ < 0) {
      throw FileError(path_, reason("cannot create", errno));
    }
    restart(/* keep */ true);
  }
  ~Partial() {
    ::close(fd_);
  }
  Partial(const Partial&) = delete;
  Partial& operator=(const Partial&) = delete;

  std::uint64_t size() const {
    return size_;
  }

  /// Empties it, unless `keep` and it may be the file's beginning.
  void restart(bool keep) {
    digest_ = digest_of_etag(info_.etag, info_.n_bytes);
    struct stat status {};
    if (::fstat(fd_, &status) != 0) {
      throw FileError(path_, reason("cannot read", errno));
    }
    size_ = keep ? static_cast<std::uint64_t>(status.st_size) : 0;
    if (size_ > info_.n_bytes) {
      size_ = 0;
    }
    if (size_ == 0 && ::ftruncate(fd_, 0) != 0) {
      throw FileError(path_, reason("cannot truncate", errno));
    }
    hash_what_is_there();
  }

  void append(std::string_view bytes) {
    while (!bytes.empty()) {
      const auto count =
          ::pwrite(fd_, bytes.data(), bytes.size(), static_cast<off_t>(size_));
      if (count < 0 && errno == EINTR) {
        continue;
      }
      if (count < 0) {
        throw FileError(path_, reason("cannot write", errno));
      }
      const auto n_bytes = static_cast<std::size_t>(count);
      digest_->update(bytes.data(), n_bytes);
      bytes.remove_prefix(n_bytes);
      size_ += n_bytes;
    }
  }

  /// Asked once, when all is there.
  bool is_right() {
    return digest_->hex() == info_.etag;
  }

  void publish(const fs::path& blob) {
    if (::fsync(fd_) != 0) {
      throw FileError(path_, reason("cannot sync", errno));
    }
    if (::rename(path_.c_str(), blob.c_str()) != 0) {
      throw FileError(blob, reason("cannot rename into place", errno));
    }
  }

  void remove() {
    ::unlink(path_.c_str());
  }

 private:
  void hash_what_is_there() {
    std::vector<char> buffer(std::min<std::uint64_t>(size_, 1 << 20));
    for (std::uint64_t at = 0; at < size_;) {
      const auto count = ::pread(
          fd_,
          buffer.data(),
          std::min<std::uint64_t>(buffer.size(), size_ - at),
          static_cast<off_t>(at));
      if (count < 0 && errno == EINTR) {
        continue;
      }
      if (count <= 0) {
        throw FileError(path_, reason("cannot read", errno));
      }
      digest_->update(buffer.data(), static_cast<std::size_t>(count));
      at += static_cast<std::uint64_t>(count);
    }
  }

  fs::path path_;
  const FileInfo& info_;
  int fd_ = -1;
  std::uint64_t size_ = 0;
  std::unique_ptr<Digest> digest_;
};

/// Whether an answer to a request for bytes from `first` on begins there.
bool continues_at(const HttpResponse& head, std::uint64_t first) {
  return head.status == 206 &&
      head.header("content-range")
          .starts_with("bytes " + std::to_string(first) + "-");
}

/// Reads on until all bytes are there or the server is given up.
void fill(
    Remote& remote,
    const std::string& repo,
    const std::string& commit,
    const WantedFile& file,
    Partial& partial,
    const std::function<void(std::uint64_t)>& progress) {
  Retries retries(remote.settings(), remote.cancelled());
  std::uint64_t last_reset = partial.size();
  while (partial.size() < file.info.n_bytes) {
    const auto first = partial.size();
    bool begun = false;
    const auto body = [&](const HttpResponse& head, std::string_view bytes) {
      if (!begun) {
        begun = true;
        if (head.status == 200 && first > 0) {
          partial.restart(/* keep */ false); // it knows no ranges
        } else if (head.status == 206 && !continues_at(head, first)) {
          throw HubError(
              Fault::server,
              repo + " " + file.name +
                  ": the server sends other bytes than those asked for");
        }
      }
      if (bytes.size() > file.info.n_bytes - partial.size()) {
        throw HubError(
            Fault::corrupt,
            repo + " " + file.name + ": has more than the " +
                std::to_string(file.info.n_bytes) + " bytes announced");
      }
      partial.append(bytes);
      progress(partial.size());
    };
    try {
      remote.read(repo, commit, file.name, first, body);
      if (partial.size() < file.info.n_bytes) {
        throw HubError(
            Fault::network,
            repo + " " + file.name + ": ended after " +
                std::to_string(partial.size()) + " of " +
                std::to_string(file.info.n_bytes) + " bytes");
      }
    } catch (const HubError& failure) {
      if (partial.size() >= last_reset + worthwhile_bytes) {
        retries.reset();
        last_reset = partial.size();
      }
      retries.wait_after(failure);
    }
  }
}

} // namespace

std::uint64_t
bytes_there(const Cache& cache, const std::string& repo, const FileInfo& info) {
  const auto blob = cache.blob(repo, info.etag);
  std::error_code error;
  if (fs::is_regular_file(blob, error)) {
    return info.n_bytes;
  }
  const auto size = fs::file_size(incomplete_of(blob), error);
  return error || size > info.n_bytes ? 0 : static_cast<std::uint64_t>(size);
}

void download_blob(
    Remote& remote,
    const Cache& cache,
    const std::string& repo,
    const std::string& commit,
    const WantedFile& file,
    const std::function<void(std::uint64_t n_bytes)>& progress) {
  const auto blob = cache.blob(repo, file.info.etag);
  std::error_code error;
  fs::create_directories(blob.parent_path(), error);
  if (error) {
    throw FileError(blob.parent_path(), "cannot create: " + error.message());
  }
  const FileLock lock(cache.lock(repo, file.info.etag), remote.cancelled());
  // Another process may have done it while this one waited.
  if (!fs::is_regular_file(blob, error)) {
    // A wrong beginning may come from an earlier run: then the whole file is
    // fetched once more.
    for (bool again = true;; again = false) {
      Partial partial(incomplete_of(blob), file.info);
      try {
        fill(remote, repo, commit, file, partial, progress);
      } catch (const HubError& failure) {
        if (failure.fault() == Fault::corrupt) {
          partial.remove();
        }
        throw;
      }
      if (partial.is_right()) {
        partial.publish(blob);
        break;
      }
      partial.remove();
      if (!again) {
        throw HubError(
            Fault::corrupt,
            repo + " " + file.name + ": the bytes received twice do not have " +
                "the hash " + file.info.etag +
                " that the server announced; try again later, or another "
                "HF_ENDPOINT");
      }
      progress(0);
    }
  }
  progress(file.info.n_bytes);
}

} // namespace qwen3_mlx::hub
