// SPDX-License-Identifier: MIT
#include "qwen3_mlx/error.h"

namespace qwen3_mlx {

FileError::FileError(std::filesystem::path path, std::string_view reason)
    : Error(path.string() + ": " + std::string(reason)),
      path_(std::move(path)) {}

FieldError::FieldError(
    std::filesystem::path path,
    std::string field,
    std::string_view reason)
    : FileError(std::move(path), field + ": " + std::string(reason)),
      field_(std::move(field)) {}

TensorError::TensorError(
    std::filesystem::path path,
    std::string tensor,
    std::string_view reason)
    : FileError(
          std::move(path),
          "tensor " + tensor + ": " + std::string(reason)),
      tensor_(std::move(tensor)) {}

TemplateError::TemplateError(
    std::string_view name,
    std::size_t line,
    std::size_t column,
    std::string_view reason)
    : Error(
          std::string(name) + ":" + std::to_string(line) + ":" +
          std::to_string(column) + ": " + std::string(reason)),
      line_(line), column_(column) {}

} // namespace qwen3_mlx
