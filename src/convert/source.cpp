// SPDX-License-Identifier: MIT
#include "convert/source.h"

#include <set>
#include <system_error>

#include "qwen3_mlx/error.h"

namespace qwen3_mlx {
namespace {

namespace fs = std::filesystem;

[[noreturn]] void fail(const fs::path& to, const std::string& reason) {
  throw InvalidArgument(
      "the target " + to.string() + " " + reason + "; choose another target");
}

/// The files that a conversion may read: those that hold tensors, and what lies
/// beside them in a directory. A GGUF file there is nothing it reads.
std::set<fs::path> read_files(const Checkpoint& checkpoint) {
  std::set<fs::path> files;
  for (const auto& [name, tensor] : checkpoint.tensors()) {
    for (const auto& piece : tensor.pieces) {
      files.insert(piece.file->path());
    }
  }
  std::error_code error;
  if (!checkpoint.is_gguf()) {
    for (const auto& entry : fs::directory_iterator(checkpoint.path(), error)) {
      if (entry.is_regular_file(error) && entry.path().extension() != ".gguf") {
        files.insert(entry.path());
      }
    }
  }
  return files;
}

/// Whether replacing `target` would take `path` away: it is that, or lies in
/// it. By what the names lead to, so that links do not hide it.
bool holds(const fs::path& target, const fs::path& path) {
  std::error_code error;
  for (auto each = fs::canonical(path, error); !error && !each.empty();
       each = each.parent_path()) {
    if (fs::equivalent(each, target, error)) {
      return true;
    }
    error.clear();
    if (each == each.parent_path()) {
      break;
    }
  }
  return false;
}

} // namespace

ConvertSource open_source(const fs::path& from, const fs::path& to) {
  std::error_code error;
  if (fs::equivalent(from, to, error)) {
    fail(to, "is the checkpoint itself");
  }
  if (holds(to, from)) {
    fail(to, "holds the checkpoint " + from.string());
  }
  ConvertSource source{get_model_args(from), Checkpoint::open(from)};
  if (fs::exists(to, error)) {
    for (const auto& file : read_files(source.checkpoint)) {
      if (holds(to, file)) {
        fail(to, "is or holds the checkpoint's file " + file.string());
      }
    }
  }
  return source;
}

} // namespace qwen3_mlx
