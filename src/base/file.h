// SPDX-License-Identifier: MIT
// Reading regular files by position, and writing files that appear whole or
// not at all.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

namespace qwen3_mlx {

/// An open regular file that is read by position. Reads are safe from several
/// threads at once.
class File {
 public:
  /// Throws FileError when `path` is missing, unreadable or not a regular file
  /// (a FIFO would block for ever, a directory has no bytes).
  explicit File(std::filesystem::path path);
  ~File();
  File(File&& other) noexcept;
  File& operator=(File&& other) noexcept;

  const std::filesystem::path& path() const noexcept {
    return path_;
  }
  /// Bytes in the file when it was opened.
  std::uint64_t size() const noexcept {
    return size_;
  }

  /// Fills `n_bytes` at `out` from byte `offset`. Throws FileError when the
  /// file ends earlier, which it says: a file cut short after it was opened
  /// must never look like zeros.
  void read(std::uint64_t offset, std::size_t n_bytes, void* out) const;

 private:
  std::filesystem::path path_;
  int fd_ = -1;
  std::uint64_t size_ = 0;
};

/// The whole of a regular file. Throws FileError when it is larger than
/// `max_bytes`, which guards against reading a checkpoint as a config.
std::string read_file(
    const std::filesystem::path& path,
    std::uint64_t max_bytes = std::uint64_t{1} << 30);

/// A file under a temporary name beside its target; commit() syncs it and
/// renames it once, the destructor removes what was not committed.
class AtomicFile {
 public:
  /// Who may read it.
  enum class Access { everybody, owner };

  explicit AtomicFile(
      std::filesystem::path path,
      Access access = Access::everybody);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  /// Appends. Throws FileError naming the target, as on a full disk.
  void write(const void* data, std::size_t n_bytes);
  void write(std::string_view bytes) {
    write(bytes.data(), bytes.size());
  }
  void commit();

 private:
  std::filesystem::path path_;
  std::filesystem::path temporary_;
  int fd_ = -1;
};

} // namespace qwen3_mlx
