// SPDX-License-Identifier: MIT
// Exceptions this library throws on purpose. Each message says where the fault
// is, what was expected and found, and the cure when one is known; the same
// facts are members.
#pragma once

#include <cstddef>
#include <filesystem>
#include <stdexcept>
#include <string>
#include <string_view>

namespace qwen3_mlx {

/// Base of every exception that something outside the program can cause.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// A file is missing, unreadable, truncated or malformed.
/// what() is "<path>: <reason>".
class FileError : public Error {
 public:
  FileError(std::filesystem::path path, std::string_view reason);

  const std::filesystem::path& path() const noexcept {
    return path_;
  }

 private:
  std::filesystem::path path_;
};

/// A field of a JSON or GGUF header has the wrong type or an impossible value.
/// what() is "<path>: <field>: <reason>"; field() is a path such as
/// "model.merges[17]" or "rope_scaling.factor".
class FieldError : public FileError {
 public:
  FieldError(
      std::filesystem::path path,
      std::string field,
      std::string_view reason);

  const std::string& field() const noexcept {
    return field_;
  }

 private:
  std::string field_;
};

/// A checkpoint tensor is missing, left over, or has the wrong shape, type or
/// place in its file. what() is "<path>: tensor <name>: <reason>".
class TensorError : public FileError {
 public:
  TensorError(
      std::filesystem::path path,
      std::string tensor,
      std::string_view reason);

  const std::string& tensor() const noexcept {
    return tensor_;
  }

 private:
  std::string tensor_;
};

/// A chat template cannot be parsed or rendered. Lines and columns start at 1.
/// what() is "<name>:<line>:<column>: <reason>".
class TemplateError : public Error {
 public:
  TemplateError(
      std::string_view name,
      std::size_t line,
      std::size_t column,
      std::string_view reason);

  std::size_t line() const noexcept {
    return line_;
  }
  std::size_t column() const noexcept {
    return column_;
  }

 private:
  std::size_t line_;
  std::size_t column_;
};

/// An argument or request is out of its documented range.
class InvalidArgument : public Error {
 public:
  using Error::Error;
};

} // namespace qwen3_mlx
