// SPDX-License-Identifier: MIT
#include <system_error>

#include "formats/gguf.h"
#include "qwen3_mlx/error.h"
#include "qwen3_mlx/tokenizer.h"
#include "tokenizer/loaders.h"

namespace qwen3_mlx {
namespace {

namespace fs = std::filesystem;

/// The file to read: `path`, or the tokenizer in that directory.
fs::path find_file(const fs::path& path) {
  std::error_code error;
  if (!fs::is_directory(path, error)) {
    return path;
  }
  const auto json = path / "tokenizer.json";
  if (fs::exists(json, error)) {
    return json;
  }
  fs::path gguf;
  for (const auto& entry : fs::directory_iterator(path, error)) {
    if (entry.path().extension() != ".gguf") {
      continue;
    }
    if (!gguf.empty()) {
      throw FileError(
          path, "has no tokenizer.json and several .gguf files; name one");
    }
    gguf = entry.path();
  }
  if (gguf.empty()) {
    throw FileError(
        path,
        "has no tokenizer.json and no .gguf file; fetch tokenizer.json from "
        "the model's repository");
  }
  return gguf;
}

} // namespace

Tokenizer load_tokenizer(const fs::path& path) {
  const auto file = find_file(path);
  if (is_gguf(file)) {
    return make_tokenizer(read_tokenizer_gguf(file));
  }
  auto definition = read_tokenizer_json(file);
  apply_config_files(file.parent_path(), definition);
  return make_tokenizer(std::move(definition));
}

} // namespace qwen3_mlx
