// SPDX-License-Identifier: MIT
// A directory, or a file, that appears under its name whole or not at all.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace qwen3_mlx {

/// A file of a staged directory, written by position, also from several
/// threads at once. Errors name the file under its final name.
class StagedFile {
 public:
  StagedFile(const std::filesystem::path& path, std::filesystem::path target);
  ~StagedFile();
  StagedFile(const StagedFile&) = delete;
  StagedFile& operator=(const StagedFile&) = delete;

  /// Throws FileError, as on a full disk.
  void write(std::uint64_t offset, const void* data, std::size_t n_bytes);
  void sync();

 private:
  std::filesystem::path target_;
  int fd_ = -1;
};

/// Files go to "<target>.part-XXXXXX/content"; publish() syncs them and renames
/// them into place; the destructor removes the rest. While it lives it holds a
/// lock on "<target>.part-XXXXXX", by which a later run knows what is left over
/// from a process that was killed, and a file there says that this program made
/// it: nothing else is ever removed.
class StagedDirectory {
 public:
  /// What appears under the target's name.
  enum class Kind { directory, file };

  /// Throws FileError when `target` is there, unless `replace`; and also then
  /// when it is a directory that is neither empty nor a checkpoint.
  StagedDirectory(
      const std::filesystem::path& target,
      bool replace,
      Kind kind = Kind::directory);
  ~StagedDirectory();
  StagedDirectory(const StagedDirectory&) = delete;
  StagedDirectory& operator=(const StagedDirectory&) = delete;

  /// Where the files will be, for messages.
  const std::filesystem::path& target() const {
    return target_;
  }
  /// Free bytes of the file system.
  std::uint64_t free_bytes() const;

  /// `name` is plain; of Kind::file there is one, under any name. The file
  /// lives as long as this object.
  StagedFile& create(const std::string& name);
  void write_file(const std::string& name, std::string_view bytes);

  void publish();

 private:
  void publish_file();

  std::filesystem::path target_;
  std::filesystem::path part_;      ///< "<target>.part-XXXXXX".
  std::filesystem::path directory_; ///< In it: what will be published.
  bool replace_;
  Kind kind_;
  int lock_ = -1;
  std::vector<std::unique_ptr<StagedFile>> files_;
};

} // namespace qwen3_mlx
